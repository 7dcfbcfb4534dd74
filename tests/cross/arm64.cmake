# Debian's cross compiler and multiarch libraries; tests run under qemu's user emulation.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR /usr/bin/qemu-aarch64-static)
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
# libhttp-parser-dev cannot be installed for two architectures at once; its header serves both.
set(HTTP_PARSER_LIBRARY /usr/lib/aarch64-linux-gnu/libhttp_parser.so.2.9 CACHE FILEPATH "")
