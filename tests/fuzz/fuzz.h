/* A fuzz target is one function in libFuzzer's form. Built with clang and FROSTLINE_FUZZ it becomes
 * a fuzzer; otherwise fuzz_replay.c feeds it the corpus as a plain test. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
