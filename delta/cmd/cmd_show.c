/* Models, deltas and comparisons for people: 80 columns, colours on a terminal only. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd.h"

#define LABEL "%-11s"

void cmd_print_digest(const char *label, const struct delta_digest *digest)
{
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    printf(LABEL "%s\n", label, delta_digest_is_zero(digest) ? "none" : hex);
}

static void print_arch(const struct delta_arch *arch)
{
    printf(LABEL "%s, stem %s, width %u, input %ux%ux%u\n", "network", arch->name, arch->stem,
           arch->width, arch->channels, arch->height, arch->image_width);
}

/* Names behind a label, wrapped. */
static void print_classes(const char *label, const struct delta_class_id *ids, size_t count)
{
    size_t column = 0;

    printf(LABEL, label);
    if (count == 0)
        printf("none");
    for (size_t i = 0; i < count; i++) {
        const size_t len = strlen(ids[i].text) + 1;
        if (column && column + len + 1 > 68) {
            printf("\n" LABEL, "");
            column = 0;
        }
        column +=
            (size_t)printf("%s%s%s", column ? " " : "", ids[i].text, i + 1 < count ? "," : "");
    }
    printf("\n");
}

static const char *shape_text(char out[32], uint32_t rank, const uint64_t *shape)
{
    size_t used = 0;

    out[0] = '\0';
    for (uint32_t i = 0; i < rank && used < 31; i++)
        used += (size_t)snprintf(out + used, 32 - used, "%s%" PRIu64, i ? "x" : "", shape[i]);
    return out;
}

/* Both ends of a name say which tensor it is; what gives is the middle. */
static const char *short_name(char out[32], const char *name)
{
    const size_t len = strlen(name);

    if (len <= 24)
        snprintf(out, 32, "%s", name);
    else
        snprintf(out, 32, "%.11s..%s", name, name + len - 11);
    return out;
}

const char *cmd_freeze_name(enum delta_freeze_mode mode)
{
    static const char *const names[] = {"live", "frozen", "rows", "weights"};

    return names[mode];
}

const char *cmd_scope_name(const struct delta_entry *entry)
{
    return entry->live_only ? "live" : entry->grown_only ? "new" : entry->sparse ? "some" : "all";
}

const char *cmd_encoding_name(const struct delta_entry *entry)
{
    return delta_encoding_name(entry->encoding);
}

uint64_t cmd_entry_total(const struct delta_entry *entry)
{
    uint64_t total = 1;

    for (uint32_t i = 0; i < entry->rank; i++)
        total *= entry->shape[i]; /* bounded when the delta was opened */
    return total;
}

static const char *time_text(char out[32], int64_t ms)
{
    const time_t seconds = (time_t)(ms / 1000);
    struct tm utc;

    if (ms == 0)
        snprintf(out, 32, "time unknown");
    else if (!gmtime_r(&seconds, &utc) || strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
        snprintf(out, 32, "%" PRId64 " ms", ms);
    return out;
}

static void print_provenance(const struct delta_provenance *p)
{
    char when[32];

    printf(LABEL "by %s, method %s\n", "made", p->device[0] ? p->device : "?",
           p->method[0] ? p->method : "?");
    printf(LABEL "%s, %s\n", "", time_text(when, p->created_ms),
           p->software[0] ? p->software : "?");
    if (p->new_samples || p->replay_samples)
        printf(LABEL "from %u new and %u replayed images\n", "", p->new_samples, p->replay_samples);
    if (p->tested_old)
        printf(LABEL "old classes %.2f %% -> %.2f %% on %u images\n", "", 100 * p->old_before,
               100 * p->old_after, p->tested_old);
    if (p->tested_new)
        printf(LABEL "new classes %.2f %% on %u images\n", "", 100 * p->new_recall, p->tested_new);
}

void cmd_print_delta(const struct delta_reader *reader)
{
    cmd_print_digest("base", &reader->base);
    cmd_print_digest("target", &reader->target);
    if (reader->has_parent)
        cmd_print_digest("parent", &reader->parent);
    print_arch(&reader->arch);
    if (reader->has_provenance)
        print_provenance(&reader->provenance);
}

void cmd_print_classes_changed(const struct cmd_view *view)
{
    const struct delta_comparison *c = view->comparison;
    char label[16];

    if (!c) {
        if (view->reader->classes_dropped)
            printf(LABEL "the last %zu of the base\n", "drops", view->reader->classes_dropped);
        print_classes("new class", view->reader->classes_added, view->reader->classes_added_count);
        return;
    }
    if (view->base) {
        snprintf(label, sizeof label, "had %zu", view->base->class_count);
        print_classes(label, view->base->classes, view->base->class_count);
    }
    snprintf(label, sizeof label, "has %zu", c->classes_kept + c->added_count);
    printf(LABEL "%zu of them%s", label, c->classes_kept,
           c->classes_moved                    ? ""
           : c->added_count + c->removed_count ? ""
                                               : ", the same");
    if (c->classes_moved)
        printf(", %zu at another output", c->classes_moved);
    printf("\n");
    if (c->added_count)
        print_classes("  added", c->added, c->added_count);
    if (c->removed_count)
        print_classes("  removed", c->removed, c->removed_count);
}

/* ---- the table of changes ---- */

#define HEAT_CELLS 10

static bool colours(void)
{
    const char *term = getenv("TERM");

    return isatty(STDOUT_FILENO) && !getenv("NO_COLOR") && term && strcmp(term, "dumb") != 0;
}

/* Largest RMS of any slice of any tensor: the bar's full scale. */
static double hottest(const struct delta_comparison *comparison)
{
    double most = 0;

    for (size_t i = 0; i < comparison->count; i++)
        for (uint32_t k = 0; k < comparison->changes[i].slices; k++)
            if (comparison->changes[i].heat[k] > most)
                most = comparison->changes[i].heat[k];
    return most;
}

/* 0: unchanged; 1..8: half a decade each below the hottest slice, which is 8. */
static int heat_level(double heat, double most)
{
    if (!(heat > 0))
        return 0;
    const double level = 8 + floor(2 * log10(heat / most));
    return level < 1 ? 1 : level > 8 ? 8 : (int)level;
}

/* Where in the tensor, front to back, the change is. */
static void print_heat(const struct delta_change *change, double most, bool colour)
{
    static const char signs[] = ".:-=+*#%@";
    static const int palette[] = {236, 17, 19, 55, 91, 161, 202, 214, 226}; /* xterm-256 */

    for (uint32_t cell = 0; cell < HEAT_CELLS; cell++) {
        const uint32_t n = change->slices;
        const uint32_t first = cell * n / HEAT_CELLS, behind = (cell + 1) * n / HEAT_CELLS;
        double heat = 0;
        for (uint32_t k = first; k < (behind > first ? behind : first + 1) && k < n; k++)
            if (change->heat[k] > heat)
                heat = change->heat[k];
        const int level = heat_level(heat, most);
        if (colour)
            printf("\033[48;5;%dm \033[0m", palette[level]);
        else
            putchar(signs[level]);
    }
}

static void print_row(const char *name, const struct delta_entry *entry,
                      const struct delta_change *change, double most, bool colour)
{
    char shown[32], how[24], size[16];

    printf("%-24s", short_name(shown, name));
    if (change && change->presence != DELTA_IN_BOTH) {
        static const char *const words[] = {"", "only in the target", "only in the base",
                                            "another shape"};
        printf(" %s\n", words[change->presence]);
        return;
    }
    if (change)
        printf(" %5.1f%% %8.3g %8.3g", 100.0 * (double)change->live / (double)change->elements,
               change->norm, change->largest);
    else
        printf(" %5.1f%% %8s %8s", 100.0 * (double)entry->elements / (double)cmd_entry_total(entry),
               "-", "-");
    if (entry) {
        snprintf(how, sizeof how, "%s %s", cmd_scope_name(entry), cmd_encoding_name(entry));
        printf(" %-9.9s %8s", how, delta_human_bytes(size, (double)entry->bytes));
    } else if (change) {
        printf(" %8.1f%%", 100.0 * (double)change->changed / (double)change->elements);
    }
    if (change) {
        putchar(' ');
        print_heat(change, most, colour);
    }
    putchar('\n');
}

static void print_plans(const struct delta_reader *reader)
{
    char name[32];

    for (size_t i = 0; i < reader->plan_count; i++)
        printf("%-24s freeze plan becomes '%s', %zu bits\n",
               short_name(name, reader->plans[i].name), cmd_freeze_name(reader->plans[i].mode),
               reader->plans[i].count);
}

static void print_delta_rows(const struct cmd_view *view, double most, bool colour)
{
    const struct delta_comparison *c = view->comparison;
    uint64_t bytes = 0, values = 0;
    char size[16];

    printf("\n%-24s %6s %8s %8s %-9s %8s%s\n", "tensor", c ? "live" : "share", "norm", "largest",
           "encoding", "bytes", c ? " where" : "");
    for (size_t i = 0; i < view->reader->entry_count; i++) {
        const struct delta_entry *e = &view->reader->entries[i];
        print_row(e->name, e, c ? delta_comparison_find(c, e->name) : NULL, most, colour);
        bytes += e->bytes;
        values += e->elements;
    }
    print_plans(view->reader);
    printf("%zu tensors changed, %" PRIu64 " values in %s\n", view->reader->entry_count, values,
           delta_human_bytes(size, (double)bytes));
    if (!c)
        printf("share: of a tensor's values, those that travel; --base FILE tells norms as well\n");
}

static void print_compared_rows(const struct delta_comparison *c, double most, bool colour)
{
    size_t same = 0;

    printf("\n%-24s %6s %8s %8s %9s %s\n", "tensor", "live", "norm", "largest", "changed", "where");
    for (size_t i = 0; i < c->count; i++) {
        const struct delta_change *change = &c->changes[i];
        if (change->presence == DELTA_IN_BOTH && change->changed + change->dropped == 0)
            same++;
        else
            print_row(change->name, NULL, change, most, colour);
    }
    printf("%zu tensors differ, %zu are the same\n", c->count - same, same);
}

void cmd_print_changes(const struct cmd_view *view)
{
    const struct delta_comparison *c = view->comparison;
    const double most = c ? hottest(c) : 0;
    const bool colour = colours();
    uint64_t frozen = 0;

    if (view->reader)
        print_delta_rows(view, most, colour);
    else
        print_compared_rows(c, most, colour);
    if (!c)
        return;
    printf("%" PRIu64 " of %" PRIu64 " values changed (%.2f %%); norm %.4g beside %.4g of the base",
           c->changed, c->elements, 100.0 * (double)c->changed / (double)c->elements, c->norm,
           c->base_norm);
    printf("\n");
    for (size_t i = 0; i < c->count; i++)
        frozen += c->changes[i].frozen_changed;
    if (frozen)
        printf("%" PRIu64 " values changed that the base's plan freezes\n", frozen);
    if (!colour)
        printf("where: each tensor from front to back; . unchanged, then : - = + * # %% @, half a\n"
               "decade each, @ the largest change of all\n");
}

void cmd_print_model(const struct delta_model *model)
{
    char name[32], shape[32], size[16];
    size_t live = 0, all = 0;

    cmd_print_digest("parent", &model->parent);
    print_arch(&model->arch);
    printf(LABEL "%zu\n", "classes", model->class_count);
    print_classes("", model->classes, model->class_count);
    printf("\n%-24s %-15s %-8s %9s %7s %9s\n", "tensor", "shape", "plan", "live", "share", "bytes");
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *t = &model->tensors[i];
        const size_t n = delta_tensor_live_count(t);
        printf("%-24s %-15.15s %-8s %9zu %5.1f %% %9zu\n", short_name(name, t->name),
               shape_text(shape, t->rank, t->shape), cmd_freeze_name(t->freeze.mode), n,
               100.0 * (double)n / (double)t->count, t->count * sizeof(float));
        live += n;
        all += t->count;
    }
    printf("%zu tensors, %zu of %zu values live, %s\n", model->tensor_count, live, all,
           delta_human_bytes(size, (double)all * sizeof(float)));
}
