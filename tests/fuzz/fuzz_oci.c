/* An OCI image layout. The first byte chooses what the rest is: the index, or the manifest that an
 * index with right sizes and digests names. Config and layer are there and whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "delta/buf.h"
#include "delta/hash.h"
#include "delta/oci.h"
#include "fuzz.h"

#define INPUT_MAX ((size_t)256 << 10) /* real ones have some hundred bytes */

/* Plain writes: what is under test is the reader, and fsync takes longest. */
static void put(const char *name, const void *data, size_t size)
{
    char path[200];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file))
        abort();
}

static void put_blob(const void *data, size_t size, char name[100])
{
    const struct delta_digest digest = delta_sha256(delta_bytes(data, size));
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, &digest);
    snprintf(name, 100, "blobs/sha256/%s", hex);
    put(name, data, size);
}

static void make_layout(void)
{
    static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
    static const char config[] = "{}"; /* what tests/fuzz/corpus/manifest.oci names */
    static const char layer[] = "\x89"
                                "FLM\r\n\x1a\1 never looked into";
    char path[200];

    snprintf(path, sizeof path, "%s/blobs", fuzz_dir());
    (void)mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/blobs/sha256", fuzz_dir());
    (void)mkdir(path, 0700);
    put("oci-layout", layout, sizeof layout - 1);
    put_blob(config, sizeof config - 1, path);
    put_blob(layer, sizeof layer - 1, path);
}

static void try_manifest(const uint8_t *data, size_t size)
{
    char index[600], name[100], path[200];

    put_blob(data, size, name);
    const int len =
        snprintf(index, sizeof index,
                 "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":"
                 "\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:%s\","
                 "\"size\":%zu,\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"}}]}",
                 name + strlen("blobs/sha256/"), size);
    put("index.json", index, (size_t)len);
    struct delta_buf out;
    if (!delta_oci_pull(fuzz_dir(), "v1", &out, NULL))
        delta_buf_release(&out);
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    (void)remove(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int made;
    struct delta_oci_list list;
    struct delta_buf out;

    if (size == 0 || size > INPUT_MAX)
        return 0;
    if (!made++)
        make_layout();
    if (data[0] & 1) {
        try_manifest(data + 1, size - 1);
        return 0;
    }
    put("index.json", data + 1, size - 1);
    if (!delta_oci_read(&list, fuzz_dir(), NULL)) {
        for (size_t i = 0; i < list.count; i++)
            if (!delta_oci_pull(fuzz_dir(), list.items[i].name, &out, NULL))
                delta_buf_release(&out);
        delta_oci_list_release(&list);
    }
    return 0;
}
