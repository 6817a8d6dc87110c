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

# The KV cache, by pkg-config and by find_package.
file(WRITE ${WORK_DIR}/kv/kv.c "#include <quash_kv.h>
#include <quash_quantizer.h>
#include <stdio.h>
int main(void) {
  printf(\"%s %u %zu\\n\", quash_kv_version(), (unsigned)quash_kv_page_size(),
         quash_packed_size(384, 3));
  return 0;
}
")
file(WRITE ${WORK_DIR}/kv/CMakeLists.txt "cmake_minimum_required(VERSION 3.16)
project(kv LANGUAGES C)
find_package(quashkv 0.1 REQUIRED)
add_executable(kv kv.c)
target_link_libraries(kv PRIVATE quashkv::quashkv)
")
run(pkg-config --cflags --libs quashkv)
separate_arguments(flags UNIX_COMMAND "${output}")
run(${CC} -std=c99 -pedantic -Wall -Wextra -Werror ${WORK_DIR}/kv/kv.c -o ${WORK_DIR}/kv/by-pkg-config
  ${flags})
run(${CMAKE_COMMAND} -S ${WORK_DIR}/kv -B ${WORK_DIR}/kv/build -G ${GENERATOR}
  -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_C_COMPILER=${CC})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/kv/build)
foreach(program by-pkg-config build/kv)
  run(${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${libraries} ${WORK_DIR}/kv/${program})
  if(NOT output STREQUAL "${VERSION} 64 144")
    message(FATAL_ERROR "${program} printed: ${output}, expected ${VERSION} 64 144")
  endif()
endforeach()

# What the shell comes with.
foreach(file share/man/man1/quashdb.1 share/bash-completion/completions/quashdb
        share/zsh/site-functions/_quashdb share/fish/vendor_completions.d/quashdb.fish)
  if(NOT EXISTS ${prefix}/${file})
    message(FATAL_ERROR "not installed: ${file}")
  endif()
endforeach()
