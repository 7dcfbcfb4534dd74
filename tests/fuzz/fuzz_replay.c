/* Replays files and directories through a fuzz target: every file, and every prefix of small ones.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/file.h"
#include "fuzz.h"

#define PREFIXES_BELOW 4096

static size_t fed;

static void feed(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1); /* so that the sanitizer sees an overrun */

    if (!exact)
        abort();
    if (size)
        memcpy(exact, data, size);
    (void)LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    fed++;
}

static int replay(const char *path)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_dir_list list;
    struct delta_buf file;
    struct stat info;
    int rc = 0;

    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        if (delta_dir_read(&list, path, 100000, &err))
            goto fail;
        for (size_t i = 0; i < list.count; i++) {
            char name[4096];
            snprintf(name, sizeof name, "%s/%s", path, list.names[i]);
            rc |= replay(name);
        }
        delta_dir_list_release(&list);
        return rc;
    }
    if (delta_file_read(path, 1 << 24, &file, &err))
        goto fail;
    feed(file.data, file.len);
    for (size_t len = 0; len < file.len && file.len < PREFIXES_BELOW; len++)
        feed(file.data, len);
    delta_buf_release(&file);
    return 0;
fail:
    fprintf(stderr, "fuzz_replay: %s\n", err.text);
    return 1;
}

int main(int argc, char **argv)
{
    int rc = argc < 2 ? 2 : 0;

    for (int i = 1; i < argc; i++)
        rc |= replay(argv[i]);
    printf("%zu inputs\n", fed);
    return rc;
}
