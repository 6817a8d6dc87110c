# Fails if an object of scan_<isa>.cc defines a symbol that another file could
# resolve to, other than its table's accessor: such code may run on a CPU
# without the instruction set.
#   cmake -D NM=nm -D "OBJECTS=a.o;b.o" -P check_isa_symbols.cmake
set(checked 0)
foreach(object IN LISTS OBJECTS)
  if(NOT object MATCHES "_(avx2|avx512|avx512vbmi|neon)\\.cc\\.o")
    continue()
  endif()
  execute_process(COMMAND ${NM} --defined-only --extern-only ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  list(FILTER symbols EXCLUDE REGEX " T _ZN5quash[0-9]+[A-Za-z0-9]+KernelsEv$")
  if(symbols)
    message(FATAL_ERROR "${object} exports: ${symbols}")
  endif()
  math(EXPR checked "${checked} + 1")
endforeach()
if(checked EQUAL 0)
  message(FATAL_ERROR "no object of one instruction set among: ${OBJECTS}")
endif()
message("${checked} objects export their tables only")
