/* A fuzz target is one function in libFuzzer's form. Built with clang and FROSTLINE_FUZZ it becomes
 * a fuzzer; otherwise fuzz_replay.c feeds it the corpus as a plain test. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- for readers that want a path (fuzz_file.c) ---- */

/* A file in memory with these bytes, and the SHA-256 of them behind where `digest` is set (a fuzzer
 * would never find it). Its path stays valid until the next call, which replaces the file. */
const char *fuzz_file(const uint8_t *data, size_t size, int digest);
/* A directory in memory (or below TMPDIR), the same one each time; removed when the program ends.
 */
const char *fuzz_dir(void);

#endif
