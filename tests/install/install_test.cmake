# Run by ctest: cmake -DBUILD_DIR= -DSOURCE_DIR= -DWORK_DIR= -DLIBDIR=
# -DVERSION= -DCC= -DGENERATOR= -P install_test.cmake
set(prefix ${WORK_DIR}/prefix)
set(example ${SOURCE_DIR}/bindings/c)
set(libraries ${prefix}/${LIBDIR})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nfailed (${result}):\n${output}")
  endif()
  string(STRIP "${output}" output)
  set(output "${output}" PARENT_SCOPE)
endfunction()

# Two rows match the example's filter, the nearer one first.
function(check_example program database)
  run(${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${libraries} ${program} ${WORK_DIR}/${database})
  if(NOT output MATCHES "^id [0-9]+  score 0\\.9[0-9]+  {\"lang\":\"en\",\"year\":2023}  Boats and harbours\nid [0-9]+  score 0\\.[0-9]+  {\"lang\":\"en\",\"year\":2024}  \\(no document\\)$")
    message(FATAL_ERROR "${program} printed:\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})
foreach(file include/quashdb.h include/quashdb.hpp ${LIBDIR}/libquashdb.so bin/quashdb)
  if(NOT EXISTS ${prefix}/${file})
    message(FATAL_ERROR "not installed: ${file}")
  endif()
endforeach()

# The installed shell finds the installed library by itself.
run(${CMAKE_COMMAND} -E env --unset=LD_LIBRARY_PATH ${prefix}/bin/quashdb --version)
if(NOT output MATCHES "${VERSION}")
  message(FATAL_ERROR "quashdb --version printed: ${output}, expected ${VERSION}")
endif()

# Nothing but the C API is visible.
run(nm -D --defined-only ${libraries}/libquashdb.so)
string(REPLACE "\n" ";" symbols "${output}")
foreach(symbol ${symbols})
  if(NOT symbol MATCHES " quash_[a-z_]+$")
    message(FATAL_ERROR "exported by mistake: ${symbol}")
  endif()
endforeach()

set(ENV{PKG_CONFIG_PATH} ${libraries}/pkgconfig)
run(pkg-config --modversion quashdb)
if(NOT output STREQUAL VERSION)
  message(FATAL_ERROR "pkg-config says version ${output}, expected ${VERSION}")
endif()
run(pkg-config --cflags --libs quashdb)
separate_arguments(flags UNIX_COMMAND "${output}")
run(${CC} -std=c99 -pedantic -Wall -Wextra -Werror ${example}/example.c
  -o ${WORK_DIR}/example-pkg-config ${flags})
check_example(${WORK_DIR}/example-pkg-config first.qdb)

run(${CMAKE_COMMAND} -S ${example} -B ${WORK_DIR}/find_package -G ${GENERATOR}
  -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_C_COMPILER=${CC})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/find_package)
check_example(${WORK_DIR}/find_package/example second.qdb)
