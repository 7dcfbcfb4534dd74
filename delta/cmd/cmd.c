#include "cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *cmd_kind_name(enum cmd_kind kind)
{
    static const char *const names[] = {"model", "delta", "safetensors", "npz"};

    return names[kind];
}

static enum delta_status parse_kind(struct cmd_file *file, struct delta_error *err)
{
    const struct delta_bytes bytes = delta_buf_bytes(&file->bytes);
    enum delta_container_kind kind;
    struct delta_error ignored;
    enum delta_status st;

    if (bytes.len == 0)
        return delta_fail(err, DELTA_TRUNCATED, "the file is empty");
    if (delta_npz_is(bytes)) {
        file->kind = CMD_NPZ;
        st = delta_npz_decode(&file->model, bytes, NULL, NULL, err);
        return st ? st : delta_model_digest(&file->model, &file->version, err);
    }
    st = delta_container_kind(bytes, &kind, &ignored);
    if (st == DELTA_FORMAT) {
        file->kind = CMD_SAFETENSORS;
        st = delta_safetensors_decode(&file->model, bytes, NULL, err);
        return st ? st : delta_model_digest(&file->model, &file->version, err);
    }
    if (!st && kind == DELTA_CONTAINER_DELTA) {
        file->kind = CMD_DELTA;
        return delta_reader_init(&file->reader, bytes, err);
    }
    file->kind = CMD_MODEL;
    return delta_model_decode(&file->model, bytes, &file->version, err);
}

enum delta_status cmd_file_parse(struct cmd_file *file, struct delta_error *err)
{
    const enum delta_status st = parse_kind(file, err);

    return st ? delta_fail_in(err, st, "'%s'", file->path) : DELTA_OK;
}

/* By a few bytes of a file, what parse_kind() would say of it. ring: NULL, or who must have signed
 * a container */
static enum delta_status judge(struct delta_peek *peek, void *ring, struct delta_error *err)
{
    const struct delta_keyring *const *keys = ring;
    enum delta_container_kind kind;
    struct delta_bytes head;
    enum delta_status st = delta_peek_at(peek, 0, 8, &head, err);

    if (st)
        return st;
    if (head.len == 0)
        return delta_fail(err, DELTA_TRUNCATED, "the file is empty");
    if (*keys || delta_container_kind(head, &kind, NULL) != DELTA_FORMAT)
        return delta_front_judge(peek, *keys, err);
    return delta_npz_is(head) ? delta_npz_judge(peek, err) : delta_safetensors_judge(peek, err);
}

enum delta_status cmd_file_read(const char *path, const struct delta_keyring *ring,
                                struct delta_buf *out, struct delta_error *err)
{
    const struct delta_keyring *keys = ring && ring->count ? ring : NULL;
    const enum delta_status st = delta_file_read_judged(path, CMD_FILE_MAX, judge, &keys, out, err);

    out->cap = CMD_FILE_MAX + 4096; /* room for a signature */
    return st;
}

enum delta_status cmd_file_open(struct cmd_file *out, const char *path, struct delta_error *err)
{
    enum delta_status st;

    *out = (struct cmd_file){.path = path};
    st = cmd_file_read(path, NULL, &out->bytes, err);
    if (!st)
        st = cmd_file_parse(out, err);
    if (st)
        cmd_file_release(out);
    return st;
}

enum delta_status cmd_file_parse_trusted(struct cmd_file *file, const struct delta_keyring *ring,
                                         struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    if (ring->count) {
        st = delta_container_verify(delta_buf_bytes(&file->bytes), ring, NULL, err);
        if (st)
            st = delta_fail_in(err, st, "'%s'", file->path);
    }
    return st ? st : cmd_file_parse(file, err);
}

enum delta_status cmd_model_open(struct cmd_file *out, const char *path, struct delta_error *err)
{
    enum delta_status st = cmd_file_open(out, path, err);

    if (!st && out->kind == CMD_DELTA) {
        cmd_file_release(out);
        st = delta_fail(err, DELTA_FORMAT, "'%s' is a delta, a model is needed here", path);
    }
    return st;
}

void cmd_file_release(struct cmd_file *file)
{
    delta_reader_release(&file->reader);
    delta_model_release(&file->model);
    delta_buf_release(&file->bytes);
}

enum delta_status cmd_refuse_onto(const char *out, const char *input, struct delta_error *err)
{
    struct stat info;

    /* files are replaced, and so would be the link that is /dev/stdout */
    if (out && stat(out, &info) == 0 && !S_ISREG(info.st_mode))
        return delta_fail(err, DELTA_EXISTS, "cannot write '%s': it is not a file", out);
    if (!out || !input || !delta_file_same(out, input))
        return DELTA_OK;
    return delta_fail(err, DELTA_USAGE, "'%s' would be written over '%s', which is read", out,
                      input);
}

enum delta_status cmd_keyring(struct delta_keyring *ring, const struct delta_opt_list *paths,
                              struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    *ring = (struct delta_keyring){.count = 0};
    for (size_t i = 0; i < paths->count && !st; i++) {
        struct delta_public_key key;
        st = delta_public_key_load(&key, paths->items[i], err);
        if (!st)
            st = delta_keyring_add(ring, &key, err);
    }
    return st;
}

void cmd_signature(const struct cmd_file *file, const struct delta_keyring *ring,
                   struct cmd_signature *out)
{
    const struct delta_bytes bytes = delta_buf_bytes(&file->bytes);

    *out = (struct cmd_signature){.trust = CMD_TRUST_NOT_CHECKED};
    if (cmd_is_foreign(file->kind)) {
        if (ring->count)
            out->status = delta_fail(&out->why, DELTA_UNTRUSTED,
                                     "'%s': %s bears no signature; import it and sign the result",
                                     file->path, cmd_kind_name(file->kind));
    } else {
        out->status = delta_container_signers(bytes, out->signers, &out->count, &out->why);
        if (!out->status && ring->count)
            out->status = delta_container_verify(bytes, ring, &out->trusted_by, &out->why);
    }
    out->is_signed = out->count > 0;
    if (out->status && !cmd_is_foreign(file->kind))
        (void)delta_fail_in(&out->why, out->status, "'%s'", file->path);
    if (out->status)
        out->trust = CMD_TRUST_REFUSED;
    else if (ring->count)
        out->trust = CMD_TRUST_HELD;
}

enum delta_status cmd_delta_open(struct cmd_file *out, const char *path,
                                 const struct delta_keyring *ring, struct delta_error *err)
{
    enum delta_status st;

    *out = (struct cmd_file){.path = path};
    st = cmd_file_read(path, ring, &out->bytes, err);
    if (!st)
        st = cmd_file_parse_trusted(out, ring, err);
    if (!st && out->kind != CMD_DELTA)
        st = delta_fail(err, DELTA_FORMAT, "'%s' is a %s, a delta is needed here", path,
                        cmd_kind_name(out->kind));
    if (st)
        cmd_file_release(out);
    return st;
}

json_t *cmd_json_text(const char *text)
{
    json_t *value = json_string(text);
    char *copy = value ? NULL : strdup(text);

    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    if (copy)
        value = json_string(copy);
    free(copy);
    return value ? value : json_null();
}

json_t *cmd_json_digest(const struct delta_digest *digest)
{
    char hex[DELTA_DIGEST_HEX];

    if (delta_digest_is_zero(digest))
        return json_null();
    delta_digest_hex(hex, digest);
    return json_string(hex);
}

int cmd_finish(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, CMD_PROGRAM ": cannot write to standard output\n");
    return delta_status_exit(DELTA_IO);
}

int cmd_print_json(json_t *root)
{
    int rc;

    json_object_set_new(root, "schema", json_integer(1));
    rc = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENSURE_ASCII);
    json_decref(root);
    if (rc == 0)
        putchar('\n');
    else
        fprintf(stderr, CMD_PROGRAM ": cannot write JSON to standard output\n");
    return cmd_finish(rc == 0 ? 0 : delta_status_exit(DELTA_IO));
}
