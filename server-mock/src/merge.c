#include "merge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OWNERS_MAX 4096 /* (class, device) pairs of one merge */

/* Weighted sums of one head row: weights then bias. */
struct row {
    char class_id[64];
    long index;   /* in the current version; -1: new */
    double *sums; /* [width + 1] */
    double weight;
};

struct server_merge {
    const struct delta_model *current;
    const struct delta_tensor *head_weight, *head_bias;
    server_merge_owns *owns;
    void *owns_context;
    double **sums; /* [tensor_count][count of the tensor]; NULL until one moves; never the head's */
    double weight; /* sum of w_i */
    struct row *base_rows; /* [class_count] of current: weighted differences */
    struct row *rows;      /* whole rows: new classes, and owners' replacements */
    size_t row_count, row_room;
    struct server_owner *owners;
    size_t owner_count;
    size_t width; /* elements of a head row */
    struct delta_digest last;
    bool any;
};

enum delta_status server_merge_new(struct server_merge **out, const struct delta_model *current,
                                   server_merge_owns *owns, void *context, struct delta_error *err)
{
    struct server_merge *merge = delta_calloc(1, sizeof *merge);
    struct delta_tensor *weight, *bias;
    enum delta_status st;

    if (!merge)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a merge");
    merge->current = current;
    merge->owns = owns;
    merge->owns_context = context;
    st = delta_model_head(current, &weight, &bias, err);
    if (st)
        goto done;
    merge->head_weight = weight;
    merge->head_bias = bias;
    merge->width = current->class_count ? weight->count / current->class_count : 0;
    merge->sums = delta_calloc(current->tensor_count, sizeof *merge->sums);
    merge->base_rows = delta_calloc(current->class_count, sizeof *merge->base_rows);
    merge->owners = delta_calloc(OWNERS_MAX, sizeof *merge->owners);
    if (!merge->sums || !merge->base_rows || !merge->owners) {
        st = delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a merge");
        goto done;
    }
    *out = merge;
    merge = NULL;
done:
    server_merge_free(merge);
    return st;
}

void server_merge_free(struct server_merge *merge)
{
    if (!merge)
        return;
    for (size_t i = 0; merge->sums && i < merge->current->tensor_count; i++)
        free(merge->sums[i]);
    for (size_t i = 0; merge->base_rows && i < merge->current->class_count; i++)
        free(merge->base_rows[i].sums);
    for (size_t i = 0; i < merge->row_count; i++)
        free(merge->rows[i].sums);
    free(merge->sums);
    free(merge->base_rows);
    free(merge->rows);
    free(merge->owners);
    free(merge);
}

/* ---- may it be added? ---- */

static bool is_head(const struct server_merge *merge, const char *name)
{
    return strcmp(name, merge->head_weight->name) == 0 || strcmp(name, merge->head_bias->name) == 0;
}

static bool same_shape(const struct delta_tensor *a, const struct delta_tensor *b, bool rows_grow)
{
    if (a->rank != b->rank)
        return false;
    for (uint32_t d = rows_grow ? 1 : 0; d < a->rank; d++)
        if (a->shape[d] != b->shape[d])
            return false;
    return true;
}

static enum delta_status check_tensors(const struct server_merge *merge,
                                       const struct delta_model *model, struct delta_error *err)
{
    if (model->tensor_count != merge->current->tensor_count)
        return delta_fail(err, DELTA_MISMATCH, "it has %zu tensors, the current version %zu",
                          model->tensor_count, merge->current->tensor_count);
    for (size_t i = 0; i < merge->current->tensor_count; i++) {
        const struct delta_tensor *want = &merge->current->tensors[i];
        const struct delta_tensor *have = delta_model_find(model, want->name);
        if (!have || !same_shape(want, have, is_head(merge, want->name)))
            return delta_fail(err, DELTA_MISMATCH,
                              "tensor '%s' is absent or shaped unlike the current version's",
                              want->name);
    }
    return DELTA_OK;
}

static enum delta_status check_classes(const struct server_merge *merge,
                                       const struct server_merge_item *item,
                                       struct delta_error *err)
{
    const struct delta_model *base = item->base;

    if (base->class_count > merge->current->class_count ||
        base->class_count > item->target->class_count)
        return delta_fail(err, DELTA_MISMATCH, "classes were removed");
    for (size_t i = 0; i < base->class_count; i++)
        if (strcmp(base->classes[i].text, merge->current->classes[i].text) != 0 ||
            strcmp(base->classes[i].text, item->target->classes[i].text) != 0)
            return delta_fail(err, DELTA_MISMATCH, "class '%s' stands elsewhere in its base",
                              base->classes[i].text);
    return DELTA_OK;
}

static enum delta_status check_item(const struct server_merge *merge,
                                    const struct server_merge_item *item, struct delta_error *err)
{
    struct delta_tensor *weight, *bias;
    enum delta_status st;

    if (merge->any && memcmp(merge->last.bytes, item->id.bytes, DELTA_DIGEST_BYTES) >= 0)
        return delta_fail(err, DELTA_INTERNAL, "contributions are not in order");
    st = check_tensors(merge, item->base, err);
    if (!st)
        st = check_tensors(merge, item->target, err);
    if (!st)
        st = check_classes(merge, item, err);
    if (!st)
        st = delta_model_head(item->base, &weight, &bias, err);
    if (!st)
        st = delta_model_head(item->target, &weight, &bias, err);
    if (!st)
        st = delta_model_check_finite(item->target, err);
    return st == DELTA_FORMAT ? DELTA_MISMATCH : st;
}

/* ---- the live slice ---- */

static enum delta_status add_slice(struct server_merge *merge, const struct server_merge_item *item,
                                   double weight, struct delta_error *err)
{
    for (size_t t = 0; t < merge->current->tensor_count; t++) {
        const struct delta_tensor *now = &merge->current->tensors[t];
        if (is_head(merge, now->name))
            continue;
        const float *from = delta_model_find(item->base, now->name)->data;
        const float *to = delta_model_find(item->target, now->name)->data;
        if (memcmp(from, to, now->count * sizeof *from) == 0)
            continue;
        if (!merge->sums[t])
            merge->sums[t] = delta_calloc(now->count, sizeof **merge->sums);
        if (!merge->sums[t])
            return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate sums");
        for (size_t i = 0; i < now->count; i++)
            merge->sums[t][i] += weight * ((double)to[i] - (double)from[i]);
    }
    return DELTA_OK;
}

/* ---- head rows ---- */

static enum delta_status row_init(struct row *row, const struct server_merge *merge,
                                  const char *class_id, long index, struct delta_error *err)
{
    row->sums = delta_calloc(merge->width + 1, sizeof *row->sums);
    if (!row->sums)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate a row");
    snprintf(row->class_id, sizeof row->class_id, "%s", class_id);
    row->index = index;
    return DELTA_OK;
}

/* Rows that base and current share: differences, averaged over those who changed them. */
static enum delta_status add_base_rows(struct server_merge *merge,
                                       const struct server_merge_item *item, double weight,
                                       struct delta_error *err)
{
    const size_t width = merge->width;
    struct delta_tensor *w0, *b0, *w1, *b1;
    enum delta_status st = delta_model_head(item->base, &w0, &b0, err);

    if (!st)
        st = delta_model_head(item->target, &w1, &b1, err);
    for (size_t r = 0; r < item->base->class_count && !st; r++) {
        struct row *row = &merge->base_rows[r];
        const float *from = w0->data + r * width, *to = w1->data + r * width;
        if (memcmp(from, to, width * sizeof *from) == 0 &&
            memcmp(&b0->data[r], &b1->data[r], sizeof(float)) == 0)
            continue;
        if (!row->sums)
            st = row_init(row, merge, item->base->classes[r].text, (long)r, err);
        if (st)
            break;
        for (size_t i = 0; i < width; i++)
            row->sums[i] += weight * ((double)to[i] - (double)from[i]);
        row->sums[width] += weight * ((double)b1->data[r] - (double)b0->data[r]);
        row->weight += weight;
    }
    return st;
}

static enum delta_status row_for(struct server_merge *merge, const char *class_id, long index,
                                 struct row **out, struct delta_error *err)
{
    for (size_t i = 0; i < merge->row_count; i++)
        if (strcmp(merge->rows[i].class_id, class_id) == 0) {
            *out = &merge->rows[i];
            return DELTA_OK;
        }
    if (merge->row_count == merge->row_room) {
        const size_t room = merge->row_room ? merge->row_room * 2 : 16;
        struct row *rows = realloc(merge->rows, room * sizeof *rows);
        if (!rows)
            return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate rows");
        merge->rows = rows;
        merge->row_room = room;
    }
    *out = &merge->rows[merge->row_count];
    **out = (struct row){.index = index};
    const enum delta_status st = row_init(*out, merge, class_id, index, err);
    merge->row_count += st == DELTA_OK;
    return st;
}

static enum delta_status add_owner(struct server_merge *merge, const char *class_id,
                                   const char *device, struct delta_error *err)
{
    struct server_owner *owner = &merge->owners[merge->owner_count];

    if (merge->owner_count == OWNERS_MAX)
        return delta_fail(err, DELTA_MISMATCH, "a merge takes %d new classes at most", OWNERS_MAX);
    snprintf(owner->class_id, sizeof owner->class_id, "%s", class_id);
    snprintf(owner->device, sizeof owner->device, "%s", device);
    merge->owner_count++;
    return DELTA_OK;
}

static enum delta_status add_new_rows(struct server_merge *merge,
                                      const struct server_merge_item *item,
                                      char note[SERVER_REASON_MAX], struct delta_error *err)
{
    const double samples = item->new_samples ? item->new_samples : 1;
    struct delta_tensor *weight, *bias;
    enum delta_status st = delta_model_head(item->target, &weight, &bias, err);

    for (size_t r = item->base->class_count; r < item->target->class_count && !st; r++) {
        const char *id = item->target->classes[r].text;
        const long index = delta_model_class_index(merge->current, id);
        struct row *row = NULL;
        bool owns = true;

        if (index >= 0)
            st = merge->owns(merge->owns_context, id, item->device, &owns, err);
        else
            st = add_owner(merge, id, item->device, err);
        if (st)
            break;
        if (!owns) {
            snprintf(note, SERVER_REASON_MAX,
                     "class '%s' exists already and belongs to another device; its row was left "
                     "out",
                     id);
            continue;
        }
        st = row_for(merge, id, index, &row, err);
        if (st)
            break;
        for (size_t i = 0; i < merge->width; i++)
            row->sums[i] += samples * (double)weight->data[r * merge->width + i];
        row->sums[merge->width] += samples * (double)bias->data[r];
        row->weight += samples;
    }
    return st;
}

enum delta_status server_merge_add(struct server_merge *merge, const struct server_merge_item *item,
                                   char note[SERVER_REASON_MAX], struct delta_error *err)
{
    const double weight = 1.0 / sqrt(1.0 + (double)item->staleness);
    enum delta_status st;

    note[0] = '\0';
    st = check_item(merge, item, err);
    if (st)
        return st;
    merge->last = item->id;
    merge->any = true;
    st = add_slice(merge, item, weight, err);
    if (!st)
        st = add_base_rows(merge, item, weight, err);
    if (!st)
        st = add_new_rows(merge, item, note, err);
    merge->weight += weight;
    /* What fails from here on is this machine, not the contribution: half of it is added. */
    return st == DELTA_MISMATCH ? DELTA_INTERNAL : st;
}

/* ---- the candidate ---- */

static void finish_slice(const struct server_merge *merge, struct delta_model *out)
{
    for (size_t t = 0; t < out->tensor_count; t++) {
        struct delta_tensor *tensor = &out->tensors[t];
        const double *sums = merge->sums[t];
        for (size_t i = 0; sums && i < tensor->count; i++) {
            /* A zero sum keeps the bits, negative zero included. */
            if (sums[i] != 0 && !delta_tensor_is_frozen(tensor, i))
                tensor->data[i] = (float)((double)tensor->data[i] + sums[i] / merge->weight);
        }
    }
}

/* Puts a value unless frozen; `add`: on top of what is there. */
static void put(struct delta_tensor *tensor, size_t at, double value, bool add)
{
    if (!delta_tensor_is_frozen(tensor, at))
        tensor->data[at] = (float)(add ? (double)tensor->data[at] + value : value);
}

static void put_row(const struct server_merge *merge, const struct row *row, size_t at, bool add,
                    struct delta_tensor *weight, struct delta_tensor *bias)
{
    if (!row->sums || row->weight <= 0)
        return;
    for (size_t i = 0; i < merge->width; i++)
        if (!add || row->sums[i] != 0)
            put(weight, at * merge->width + i, row->sums[i] / row->weight, add);
    if (!add || row->sums[merge->width] != 0)
        put(bias, at, row->sums[merge->width] / row->weight, add);
}

static int row_order(const void *a, const void *b)
{
    return strcmp(((const struct row *)a)->class_id, ((const struct row *)b)->class_id);
}

static enum delta_status finish_rows(struct server_merge *merge, struct delta_model *out,
                                     struct delta_error *err)
{
    struct delta_class_id *ids = delta_calloc(merge->row_count, sizeof *ids);
    struct delta_tensor *weight, *bias;
    enum delta_status st = DELTA_OK;
    size_t added = 0;

    if (!ids)
        return delta_fail(err, DELTA_NO_MEMORY, "cannot allocate class ids");
    if (merge->row_count)
        qsort(merge->rows, merge->row_count, sizeof *merge->rows, row_order);
    for (size_t i = 0; i < merge->row_count; i++)
        if (merge->rows[i].index < 0)
            snprintf(ids[added++].text, sizeof ids[0].text, "%s", merge->rows[i].class_id);
    if (added)
        st = delta_model_grow_head(out, ids, added, err);
    if (!st)
        st = delta_model_head(out, &weight, &bias, err);
    for (size_t r = 0; r < merge->current->class_count && !st; r++)
        put_row(merge, &merge->base_rows[r], r, true, weight, bias);
    for (size_t i = 0; i < merge->row_count && !st; i++)
        put_row(merge, &merge->rows[i],
                (size_t)delta_model_class_index(out, merge->rows[i].class_id), false, weight, bias);
    free(ids);
    return st;
}

static bool differs(const struct delta_model *a, const struct delta_model *b)
{
    if (a->class_count != b->class_count)
        return true;
    for (size_t t = 0; t < a->tensor_count; t++)
        if (memcmp(a->tensors[t].data, b->tensors[t].data, a->tensors[t].count * sizeof(float)) !=
            0)
            return true;
    return false;
}

enum delta_status server_merge_finish(struct server_merge *merge, struct delta_model *out,
                                      bool *changed, struct delta_error *err)
{
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_digest parent;
    enum delta_status st = delta_model_digest(merge->current, &parent, err);

    if (!st)
        st = delta_model_copy(&model, merge->current, err);
    if (st)
        goto done;
    model.parent = parent;
    finish_slice(merge, &model);
    st = finish_rows(merge, &model, err);
    if (!st)
        st = delta_model_check_finite(&model, err);
    if (st)
        goto done;
    *changed = differs(&model, merge->current);
    *out = model;
    model = (struct delta_model)DELTA_MODEL_INIT;
done:
    delta_model_release(&model);
    return st;
}

const struct server_owner *server_merge_owners(const struct server_merge *merge, size_t *count)
{
    *count = merge->owner_count;
    return merge->owners;
}
