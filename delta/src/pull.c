#include "pull.h"

#include <errno.h>
#include <unistd.h>

void delta_pull_memory(struct delta_pull *pull, struct delta_bytes bytes)
{
    /* no bytes at all may come with a NULL pointer */
    *pull = (struct delta_pull){
        .memory = bytes.data ? bytes.data : (const uint8_t *)"", .left = bytes.len, .fd = -1};
}

void delta_pull_file(struct delta_pull *pull, int fd, uint64_t offset, size_t len, uint8_t *piece,
                     struct delta_hash *hash)
{
    *pull =
        (struct delta_pull){.left = len, .fd = fd, .offset = offset, .piece = piece, .hash = hash};
}

static enum delta_status read_piece(struct delta_pull *pull, size_t len, struct delta_error *err)
{
    size_t have = 0;

    while (have < len) {
        const ssize_t got = pread(pull->fd, pull->piece + have, len - have, (off_t)pull->offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return delta_fail_errno(err, "cannot read a payload");
        if (got == 0)
            return delta_fail(err, DELTA_TRUNCATED, "file ends %zu bytes early", len - have);
        have += (size_t)got;
        pull->offset += (uint64_t)got;
    }
    return DELTA_OK;
}

enum delta_status delta_pull_take(struct delta_pull *pull, size_t len, const uint8_t **out,
                                  struct delta_error *err)
{
    if (len > pull->left || len > DELTA_PULL_MAX)
        return delta_fail(err, DELTA_FORMAT, "payload ends early: %zu bytes are left of %zu",
                          pull->left, len);
    if (pull->memory) {
        *out = pull->memory;
        pull->memory += len;
    } else {
        const enum delta_status st = read_piece(pull, len, err);
        if (st)
            return st;
        if (pull->hash)
            delta_hash_update(pull->hash, delta_bytes(pull->piece, len));
        *out = pull->piece;
    }
    pull->left -= len;
    return DELTA_OK;
}

enum delta_status delta_pull_end(const struct delta_pull *pull, struct delta_error *err)
{
    if (pull->left)
        return delta_fail(err, DELTA_FORMAT, "%zu bytes follow the payload's values", pull->left);
    return DELTA_OK;
}
