#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "delta/file.h"
#include "delta/hash.h"
#include "delta/msg.h"

#define MAGIC "FROSTCK1"
#define MAGIC_BYTES 8
#define FRONT_BYTES (MAGIC_BYTES + 4)
#define SCHEMA 1
#define MAX_HEADER ((size_t)64 << 10)
#define MAX_FLOATS ((uint64_t)2 << 30) /* a model of 2 GB, its velocity, its average, and room */
#define MAX_STEPS ((uint64_t)1 << 48)
#define PIECE_BYTES ((size_t)16 << 10)

void learner_checkpoint_option(struct learner_checkpoint *state, const char *name, const char *fmt,
                               ...)
{
    struct learner_checkpoint_option made = {"", ""};
    size_t at = state->option_count;
    va_list args;

    if (at == LEARNER_CHECKPOINT_OPTIONS_MAX)
        return;
    snprintf(made.name, sizeof made.name, "%s", name);
    va_start(args, fmt);
    vsnprintf(made.text, sizeof made.text, fmt, args);
    va_end(args);
    for (; at > 0 && strcmp(state->options[at - 1].name, made.name) > 0; at--)
        state->options[at] = state->options[at - 1];
    state->options[at] = made;
    state->option_count++;
}

/* ---- writing ---- */

static enum delta_status put_header(struct delta_buf *header,
                                    const struct learner_checkpoint *state, uint64_t floats,
                                    struct delta_error *err)
{
    struct delta_msg_out out = {header, DELTA_OK};

    delta_msg_map(&out, 6);
    delta_msg_str(&out, "floats");
    delta_msg_uint(&out, floats);
    delta_msg_str(&out, "microbatch");
    delta_msg_uint(&out, state->microbatch);
    delta_msg_str(&out, "options");
    delta_msg_map(&out, state->option_count);
    for (size_t i = 0; i < state->option_count; i++) {
        delta_msg_str(&out, state->options[i].name);
        delta_msg_str(&out, state->options[i].text);
    }
    delta_msg_str(&out, "schema");
    delta_msg_uint(&out, SCHEMA);
    delta_msg_str(&out, "step");
    delta_msg_uint(&out, state->step);
    delta_msg_str(&out, "steps");
    delta_msg_uint(&out, state->steps);
    return out.status ? delta_fail(err, out.status, "checkpoint header too large") : DELTA_OK;
}

static enum delta_status put(struct delta_newfile *file, struct delta_hash *hash, const void *data,
                             size_t len, struct delta_error *err)
{
    delta_hash_update(hash, delta_bytes(data, len));
    return delta_newfile_write(file, delta_bytes(data, len), err);
}

enum delta_status learner_checkpoint_save(const struct learner_checkpoint *state,
                                          const struct learner_checkpoint_block *blocks,
                                          size_t count, const char *path, struct delta_error *err)
{
    struct delta_newfile file = DELTA_NEWFILE_INIT;
    struct delta_hash hash = {NULL};
    struct delta_buf header;
    uint8_t front[FRONT_BYTES] = MAGIC;
    uint64_t floats = 0;
    enum delta_status st;

    delta_buf_init(&header, MAX_HEADER);
    for (size_t i = 0; i < count; i++)
        floats += blocks[i].count;
    st = put_header(&header, state, floats, err);
    if (!st)
        st = delta_hash_init(&hash, err);
    if (!st)
        st = delta_newfile_open(&file, path, 0644, err);
    if (st)
        goto done;
    for (int i = 0; i < 4; i++)
        front[MAGIC_BYTES + i] = (uint8_t)(header.len >> (8 * i));
    st = put(&file, &hash, front, sizeof front, err);
    if (!st)
        st = put(&file, &hash, header.data, header.len, err);
    for (size_t i = 0; !st && i < count; i++)
        st = put(&file, &hash, blocks[i].data, blocks[i].count * sizeof(float), err);
    if (st)
        goto done;
    const struct delta_digest digest = delta_hash_finish(&hash);
    st = delta_newfile_write(&file, delta_bytes(digest.bytes, sizeof digest.bytes), err);
    if (!st)
        st = delta_newfile_commit(&file, err);
done:
    delta_hash_release(&hash);
    delta_newfile_release(&file);
    delta_buf_release(&header);
    return st ? delta_fail_in(err, st, "checkpoint '%s'", path) : DELTA_OK;
}

/* ---- reading ---- */

static enum delta_status get_options(struct learner_checkpoint *state, struct delta_msg_value map,
                                     struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    state->option_count = delta_msg_count(map);
    if (state->option_count > LEARNER_CHECKPOINT_OPTIONS_MAX)
        return delta_fail(err, DELTA_LIMIT, "%zu options", state->option_count);
    for (size_t i = 0; !st && i < state->option_count; i++) {
        struct learner_checkpoint_option *option = &state->options[i];
        struct delta_bytes key;
        const struct delta_msg_value value = delta_msg_pair(map, i, &key);
        if (key.len >= sizeof option->name || memchr(key.data, 0, key.len))
            return delta_fail(err, DELTA_FORMAT, "the name of option %zu", i);
        memcpy(option->name, key.data, key.len);
        option->name[key.len] = '\0';
        st = delta_msg_to_str(value, "option", option->text, sizeof option->text, err);
    }
    return st;
}

static enum delta_status get_header(struct learner_checkpoint_file *out, struct delta_bytes header,
                                    struct delta_error *err)
{
    struct delta_msg_value map, options;
    struct delta_msg msg = {0};
    uint64_t schema;
    enum delta_status st = delta_msg_parse(&msg, header, err);

    if (st)
        return st;
    map = delta_msg_root(&msg);
    st = delta_msg_get_uint(map, "schema", UINT32_MAX, &schema, err);
    if (!st && schema != SCHEMA)
        st = delta_fail(err, DELTA_UNSUPPORTED, "schema %llu is newer than this program",
                        (unsigned long long)schema);
    if (!st)
        st = delta_msg_get_map(map, "options", &options, err);
    if (!st)
        st = get_options(&out->state, options, err);
    if (!st)
        st = delta_msg_get_uint(map, "floats", MAX_FLOATS, &out->floats, err);
    if (!st)
        st = delta_msg_get_uint(map, "microbatch", 65536, &out->state.microbatch, err);
    if (!st)
        st = delta_msg_get_uint(map, "steps", MAX_STEPS, &out->state.steps, err);
    if (!st)
        st = delta_msg_get_uint(map, "step", out->state.steps, &out->state.step, err);
    delta_msg_release(&msg);
    return st;
}

static enum delta_status read_exactly(FILE *file, void *out, size_t len, struct delta_error *err)
{
    errno = 0;
    if (fread(out, 1, len, file) == len)
        return DELTA_OK;
    return ferror(file) && errno ? delta_fail_errno(err, "cannot read")
                                 : delta_fail(err, DELTA_TRUNCATED, "file ends early");
}

/* Digest of all but the last bytes against those. */
static enum delta_status check_digest(FILE *file, uint64_t len, struct delta_error *err)
{
    uint8_t piece[PIECE_BYTES], wanted[DELTA_DIGEST_BYTES];
    struct delta_hash hash = {NULL};
    enum delta_status st = delta_hash_init(&hash, err);

    while (!st && len) {
        const size_t take = len < sizeof piece ? (size_t)len : sizeof piece;
        st = read_exactly(file, piece, take, err);
        if (!st)
            delta_hash_update(&hash, delta_bytes(piece, take));
        len -= take;
    }
    if (!st)
        st = read_exactly(file, wanted, sizeof wanted, err);
    if (!st) {
        const struct delta_digest digest = delta_hash_finish(&hash);
        if (memcmp(digest.bytes, wanted, sizeof wanted) != 0)
            st = delta_fail(err, DELTA_DIGEST, "file is damaged; remove it to start anew");
    }
    delta_hash_release(&hash);
    return st;
}

static enum delta_status open_file(struct learner_checkpoint_file *out, struct delta_buf *header,
                                   const char *path, struct delta_error *err)
{
    uint8_t front[FRONT_BYTES], *at;
    struct stat info;
    size_t len = 0;
    enum delta_status st;

    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us */
    out->file = fd < 0 ? NULL : fdopen(fd, "rb");
    if (!out->file) {
        st = delta_fail_errno(err, "cannot open");
        if (fd >= 0)
            close(fd);
        return st;
    }
    if (fstat(fd, &info))
        return delta_fail_errno(err, "cannot examine");
    if (!S_ISREG(info.st_mode))
        return delta_fail(err, DELTA_FORMAT, "not a file");
    st = read_exactly(out->file, front, sizeof front, err);
    if (st)
        return st;
    if (memcmp(front, MAGIC, MAGIC_BYTES) != 0)
        return delta_fail(err, DELTA_FORMAT, "not a checkpoint");
    for (int i = 0; i < 4; i++)
        len |= (size_t)front[MAGIC_BYTES + i] << (8 * i);
    st = delta_buf_extend(header, len, &at, err);
    if (!st)
        st = read_exactly(out->file, at, len, err);
    if (!st)
        st = get_header(out, delta_buf_bytes(header), err);
    if (st)
        return st;
    const uint64_t before = FRONT_BYTES + len + out->floats * sizeof(float);
    if ((uint64_t)info.st_size != before + DELTA_DIGEST_BYTES)
        return delta_fail(err,
                          (uint64_t)info.st_size < before + DELTA_DIGEST_BYTES ? DELTA_TRUNCATED
                                                                               : DELTA_FORMAT,
                          "file has %lld bytes where %llu belong", (long long)info.st_size,
                          (unsigned long long)(before + DELTA_DIGEST_BYTES));
    rewind(out->file);
    st = check_digest(out->file, before, err);
    if (!st && fseek(out->file, (long)(FRONT_BYTES + len), SEEK_SET))
        st = delta_fail_errno(err, "cannot read");
    return st;
}

enum delta_status learner_checkpoint_open(struct learner_checkpoint_file *out, const char *path,
                                          struct delta_error *err)
{
    struct learner_checkpoint_file made = {.file = NULL};
    struct delta_buf header;
    enum delta_status st;

    delta_buf_init(&header, MAX_HEADER);
    st = open_file(&made, &header, path, err);
    delta_buf_release(&header);
    if (st) {
        learner_checkpoint_close(&made);
        return delta_fail_in(err, st, "checkpoint '%s'", path);
    }
    *out = made;
    return DELTA_OK;
}

void learner_checkpoint_close(struct learner_checkpoint_file *file)
{
    if (file->file)
        fclose(file->file);
    file->file = NULL;
}

enum delta_status learner_checkpoint_same_run(const struct learner_checkpoint *found,
                                              const struct learner_checkpoint *mine,
                                              struct delta_error *err)
{
    const size_t most =
        found->option_count > mine->option_count ? found->option_count : mine->option_count;

    for (size_t i = 0; i < most; i++) {
        const struct learner_checkpoint_option none = {"", ""};
        const struct learner_checkpoint_option *a =
            i < found->option_count ? &found->options[i] : &none;
        const struct learner_checkpoint_option *b =
            i < mine->option_count ? &mine->options[i] : &none;
        if (strcmp(a->name, b->name) != 0)
            return delta_fail(err, DELTA_MISMATCH,
                              "it is of another program version: option '%s' there, '%s' here; "
                              "remove the file to start anew",
                              a->name, b->name);
        if (strcmp(a->text, b->text) != 0)
            return delta_fail(err, DELTA_MISMATCH,
                              "it is of another run: %s is %s there, %s here; give the same "
                              "options, or remove the file to start anew",
                              a->name, a->text, b->text);
    }
    return DELTA_OK;
}

enum delta_status learner_checkpoint_read(struct learner_checkpoint_file *file,
                                          const struct learner_checkpoint_block *blocks,
                                          size_t count, struct delta_error *err)
{
    uint64_t floats = 0;
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < count; i++)
        floats += blocks[i].count;
    if (floats != file->floats)
        return delta_fail(err, DELTA_FORMAT, "%llu numbers where the network has %llu",
                          (unsigned long long)file->floats, (unsigned long long)floats);
    for (size_t i = 0; !st && i < count; i++)
        st = read_exactly(file->file, blocks[i].data, blocks[i].count * sizeof(float), err);
    return st;
}
