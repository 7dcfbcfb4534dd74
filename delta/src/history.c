#include "delta/history.h"

#include <stdlib.h>
#include <string.h>

#include "container.h"
#include "delta/file.h"

#define PATH_ROOM 4352

void delta_history_release(struct delta_history *history)
{
    if (!history)
        return;
    free(history->items);
    *history = (struct delta_history){.count = 0};
}

/* ---- reading the files ---- */

static void set_fault(struct delta_history_item *item, enum delta_status st, const char *text)
{
    const size_t len = strnlen(text, sizeof item->problem - 1);

    item->status = st;
    memcpy(item->problem, text, len);
    item->problem[len] = '\0';
}

static enum delta_status read_delta(struct delta_history_item *item, struct delta_bytes bytes,
                                    struct delta_error *err)
{
    struct delta_reader reader;
    enum delta_status st = delta_reader_init(&reader, bytes, err);

    if (st)
        return st;
    item->from = reader.base;
    item->version = reader.target;
    item->classes = reader.classes_added_count;
    item->has_provenance = reader.has_provenance;
    item->provenance = reader.provenance;
    delta_reader_release(&reader);
    return DELTA_OK;
}

static enum delta_status read_model(struct delta_history_item *item, struct delta_bytes bytes,
                                    struct delta_error *err)
{
    struct delta_model model;
    enum delta_status st = delta_model_decode(&model, bytes, &item->version, err);

    if (st)
        return st;
    item->from = model.parent;
    item->classes = model.class_count;
    delta_model_release(&model);
    return DELTA_OK;
}

/* A directory holds files of all kinds and sizes: one that is not ours costs a few bytes. */
struct glance {
    struct delta_history_item *item;
    bool ours;
    struct delta_error why; /* without the path, which a line of the listing has no room for */
};

static enum delta_status judge(struct delta_peek *peek, void *context, struct delta_error *err)
{
    struct glance *glance = context;
    struct delta_bytes head;
    enum delta_status st = delta_peek_at(peek, 0, 8, &head, err);

    if (!st)
        st = delta_container_kind(head, &glance->item->kind, err);
    glance->item->bytes = peek->len;
    glance->ours = st != DELTA_FORMAT && st != DELTA_TRUNCATED;
    if (!st)
        st = delta_front_judge(peek, NULL, err);
    if (st)
        glance->why = *err;
    return st;
}

/* False: a file of neither kind. */
static bool read_item(struct delta_history_item *item, const char *path)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest signers[8];
    struct glance glance = {item, false, DELTA_ERROR_INIT};
    struct delta_buf file;
    enum delta_status st =
        delta_file_read_judged(path, DELTA_CONTAINER_MAX, judge, &glance, &file, &err);

    if (!glance.ours && (st == DELTA_FORMAT || st == DELTA_TRUNCATED)) /* a directory, too */
        return false;
    if (st && glance.why.text[0])
        err = glance.why;
    const struct delta_bytes bytes = delta_buf_bytes(&file);
    if (!st)
        st = item->kind == DELTA_CONTAINER_DELTA ? read_delta(item, bytes, &err)
                                                 : read_model(item, bytes, &err);
    if (!st)
        st = delta_container_signers(bytes, signers, &item->signatures, &err);
    if (st)
        set_fault(item, st, err.text);
    delta_buf_release(&file);
    return true;
}

static enum delta_status read_items(struct delta_history *out, const char *dir,
                                    struct delta_error *err)
{
    struct delta_dir_list list;
    enum delta_status st = delta_dir_read(&list, dir, DELTA_HISTORY_MAX, err);

    if (st)
        return st;
    out->items = delta_calloc(list.count, sizeof *out->items);
    if (!out->items)
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu files", list.count);
    for (size_t i = 0; i < list.count && !st; i++) {
        struct delta_history_item *item = &out->items[out->count];
        char path[PATH_ROOM];
        st = delta_path_join(path, sizeof path, dir, list.names[i], err);
        if (st)
            break;
        strncpy(item->name, list.names[i], sizeof item->name - 1);
        if (read_item(item, path)) {
            out->faults += item->status != DELTA_OK;
            out->count++;
        } else {
            *item = (struct delta_history_item){.bytes = 0};
            out->ignored++;
        }
    }
    delta_dir_list_release(&list);
    return st;
}

/* ---- descent ---- */

static bool is_delta(const struct delta_history_item *item)
{
    return item->kind == DELTA_CONTAINER_DELTA;
}

struct place {
    bool done;
    bool ready;  /* what it builds on stands already */
    bool orphan; /* nothing here is what it builds on */
};

/* The next to be placed: whatever is ready, else a model that starts a chain, else any model: its
 * parent waits for something that is missing. SIZE_MAX: only deltas behind a gap are left. */
static size_t next_place(const struct delta_history *h, const struct place *places)
{
    size_t model = SIZE_MAX, root = SIZE_MAX;

    for (size_t i = 0; i < h->count; i++) {
        if (places[i].done || h->items[i].status)
            continue;
        if (places[i].ready)
            return i;
        if (is_delta(&h->items[i]))
            continue;
        if (root == SIZE_MAX && places[i].orphan)
            root = i;
        if (model == SIZE_MAX)
            model = i;
    }
    return root != SIZE_MAX ? root : model;
}

static void find_orphans(const struct delta_history *h, struct place *places)
{
    for (size_t i = 0; i < h->count; i++) {
        places[i].orphan = true;
        for (size_t k = 0; k < h->count && places[i].orphan; k++)
            places[i].orphan = k == i || h->items[k].status ||
                               !delta_digest_equal(&h->items[k].version, &h->items[i].from);
    }
}

static enum delta_status put_in_order(struct delta_history *h, struct delta_error *err)
{
    struct delta_history_item *sorted = delta_calloc(h->count, sizeof *sorted);
    struct place *places = delta_calloc(h->count, sizeof *places);
    size_t count = 0, at;

    if (!sorted || !places) {
        free(sorted);
        free(places);
        return delta_fail(err, DELTA_NO_MEMORY, "cannot order %zu files", h->count);
    }
    find_orphans(h, places);
    while ((at = next_place(h, places)) != SIZE_MAX) {
        places[at].done = true;
        h->items[at].reached = true;
        for (size_t i = 0; i < h->count; i++)
            places[i].ready |= delta_digest_equal(&h->items[i].from, &h->items[at].version);
        sorted[count++] = h->items[at];
    }
    for (size_t i = 0; i < h->count; i++) {
        if (!places[i].done)
            sorted[count++] = h->items[i];
        h->gaps += !places[i].done && !h->items[i].status;
    }
    free(h->items);
    free(places);
    h->items = sorted;
    return DELTA_OK;
}

static void count_heads(struct delta_history *h)
{
    for (size_t i = 0; i < h->count; i++) {
        bool used = h->items[i].status != DELTA_OK;
        for (size_t k = 0; k < h->count && !used; k++) {
            if (h->items[k].status || k == i)
                continue;
            used = delta_digest_equal(&h->items[k].from, &h->items[i].version) ||
                   (k < i && delta_digest_equal(&h->items[k].version, &h->items[i].version));
        }
        h->heads += !used;
    }
}

enum delta_status delta_history_read(struct delta_history *out, const char *dir,
                                     struct delta_error *err)
{
    enum delta_status st;

    *out = (struct delta_history){.count = 0};
    st = read_items(out, dir, err);
    if (!st)
        st = put_in_order(out, err);
    if (st) {
        delta_history_release(out);
        return st;
    }
    count_heads(out);
    return DELTA_OK;
}

/* ---- verification ---- */

/* The model that was made last: a chain is walked by applying one delta to it after another. */
struct walk {
    struct delta_history *history;
    const char *dir;
    struct delta_model model;
    struct delta_digest version; /* zero: none */
};

static enum delta_status load_file(const struct walk *walk, const struct delta_history_item *item,
                                   struct delta_buf *out, struct delta_error *err)
{
    char path[PATH_ROOM];
    enum delta_status st = delta_path_join(path, sizeof path, walk->dir, item->name, err);

    *out = (struct delta_buf){0};
    return st ? st : delta_file_read(path, DELTA_CONTAINER_MAX, out, err);
}

/* Makes item's version the one at hand; its base must be at hand already where it is a delta. */
static enum delta_status step(struct walk *walk, const struct delta_history_item *item,
                              struct delta_error *err)
{
    struct delta_model next = DELTA_MODEL_INIT;
    struct delta_reader reader = {.entry_count = 0};
    struct delta_buf file;
    enum delta_status st = load_file(walk, item, &file, err);

    if (!st && is_delta(item)) {
        st = delta_reader_init(&reader, delta_buf_bytes(&file), err);
        if (!st)
            st = delta_apply(&walk->model, &reader, &next, err);
        delta_reader_release(&reader);
    } else if (!st) {
        st = delta_model_decode(&next, delta_buf_bytes(&file), NULL, err);
    }
    delta_buf_release(&file);
    if (st)
        return st;
    delta_model_release(&walk->model);
    walk->model = next;
    walk->version = item->version;
    return DELTA_OK;
}

/* Brings `version` to hand: the shortest way back to a model that lies there, then forth. */
static enum delta_status reach(struct walk *walk, const struct delta_digest *version,
                               struct delta_error *err)
{
    const struct delta_history *h = walk->history;
    const struct delta_history_item **path = NULL;
    struct delta_digest want = *version;
    size_t count = 0;
    enum delta_status st = DELTA_OK;

    if (delta_digest_equal(&walk->version, version))
        return DELTA_OK;
    path = delta_calloc(h->count, sizeof *path);
    if (!path)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate %zu steps", h->count);
    for (;;) {
        const struct delta_history_item *found = NULL;
        for (size_t i = 0; i < h->count && !(found && !is_delta(found)); i++)
            if (h->items[i].verified && delta_digest_equal(&h->items[i].version, &want) &&
                (!found || !is_delta(&h->items[i])))
                found = &h->items[i];
        if (!found || count == h->count) {
            st = delta_fail(err, DELTA_BASE_UNKNOWN, "its base could not be made");
            break;
        }
        path[count++] = found;
        if (!is_delta(found))
            break;
        want = found->from;
    }
    while (!st && count > 0)
        st = step(walk, path[--count], err);
    free(path);
    return st;
}

enum delta_status delta_history_verify(struct delta_history *history, const char *dir,
                                       delta_watch *watch, void *context, struct delta_error *err)
{
    struct walk walk = {.history = history, .dir = dir};
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < history->count && !st; i++) {
        struct delta_history_item *item = &history->items[i];
        enum delta_status found = DELTA_OK;
        struct delta_error why = DELTA_ERROR_INIT;
        if (item->reached && is_delta(item))
            found = reach(&walk, &item->from, &why);
        if (item->reached && !found)
            found = step(&walk, item, &why);
        item->verified = item->reached && !found;
        if (found == DELTA_NO_MEMORY)
            st = delta_fail(err, found, "%s", why.text);
        else if (found) {
            set_fault(item, found, why.text);
            history->faults++;
        }
        if (watch)
            watch(context, (double)(i + 1), (double)history->count);
    }
    delta_model_release(&walk.model);
    return st;
}
