/* inspect --html: one self-contained page. No script, no network (the page forbids both to
 * itself), all text escaped: names in a file come from strangers. Reads well without colours: every
 * drawing has a text that says the same.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"

#define PAGE_MAX ((size_t)64 << 20)

/* A page that is being written; the first failure stays. */
struct page {
    struct delta_buf buf;
    enum delta_status status;
    struct delta_error *err;
};

static void raw(struct page *page, const char *text)
{
    if (!page->status)
        page->status = delta_buf_append(&page->buf, text, strlen(text), page->err);
}

/* Numbers and our own words only: what it prints is not escaped. */
static void put(struct page *page, const char *fmt, ...) DELTA_PRINTF(2, 3);

static void put(struct page *page, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    raw(page, text);
}

/* Anybody's words. Bytes beyond ASCII become '?': names in our formats have none. */
static void escaped(struct page *page, const char *text)
{
    for (const char *p = text; *p; p++) {
        const char one[2] = {*p, '\0'};
        switch (*p) {
        case '&':
            raw(page, "&amp;");
            break;
        case '<':
            raw(page, "&lt;");
            break;
        case '>':
            raw(page, "&gt;");
            break;
        case '"':
            raw(page, "&quot;");
            break;
        case '\'':
            raw(page, "&#39;");
            break;
        default:
            raw(page, (unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e ? "?" : one);
        }
    }
}

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--line:#c8c8c8;--soft:#f2f4f7;"
    "--bar:#2f5d9b}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#ececec;--paper:#16181c;--line:#44484f;"
    "--soft:#21242a;--bar:#8fb8f0}}\n"
    "body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
    "max-width:75rem;margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{font-weight:600}"
    "dd{margin:0;overflow-wrap:anywhere}\n"
    "code,td.n{font-family:ui-monospace,monospace;font-size:.87em}\n"
    "table{border-collapse:collapse;width:100%}caption{text-align:left;padding:.3rem 0}\n"
    "th,td{border-bottom:1px solid var(--line);padding:.25rem .5rem;text-align:left;"
    "vertical-align:middle}th[scope=col]{background:var(--soft)}th[scope=row]{font-weight:400;min-"
    "width:13rem;"
    "overflow-wrap:anywhere}\n"
    "td.n{text-align:right;white-space:nowrap}.wide{overflow-x:auto}\n"
    ".state{padding:.6rem .9rem;border-left:.4rem solid;background:var(--soft)}\n"
    ".yes{border-color:#1f7a3f}.no{border-color:#b3261e}.open{border-color:#8a6d00}\n"
    "ul.c{columns:10rem;padding-left:1.1rem}svg{display:block}.b{fill:var(--bar)}\n"
    ".h0{fill:#9aa0a8;fill-opacity:.18}.h1{fill:#3b4cc0}.h2{fill:#5470de}.h3{fill:#7b9ff9}"
    ".h4{fill:#a9c6fd}.h5{fill:#edd1c2}.h6{fill:#f7a889}.h7{fill:#e26952}.h8{fill:#b40426}\n"
    "@media print{body{max-width:none;margin:0}.wide{overflow:visible}tr{break-inside:avoid}"
    "thead{display:table-header-group}*{print-color-adjust:exact;"
    "-webkit-print-color-adjust:exact}}\n";

static void begin(struct page *page, const struct cmd_file *file)
{
    raw(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
              "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
              "style-src 'unsafe-inline'\">\n"
              "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    escaped(page, file->path);
    raw(page, "</title>\n<style>\n");
    raw(page, style);
    raw(page, "</style>\n</head>\n<body>\n<main>\n<h1>");
    put(page, "%s <code>", file->kind == CMD_DELTA ? "Delta" : "Model");
    escaped(page, file->path);
    raw(page, "</code></h1>\n");
}

/* ---- what and by whom ---- */

static void state_box(struct page *page, const struct cmd_signature *signature, bool applied)
{
    static const char *const classes[] = {"open", "yes", "no"};
    char hex[DELTA_DIGEST_HEX];

    put(page,
        "<p class=\"state yes\"><strong>Structure: sound.</strong> Every length and digest "
        "holds%s.</p>\n",
        applied ? "; base and delta give the target" : "");
    put(page, "<p class=\"state %s\"><strong>Trust: ", classes[signature->trust]);
    if (signature->trust == CMD_TRUST_HELD) {
        delta_digest_hex(hex, &signature->trusted_by);
        put(page, "trusted.</strong> Signed by key <code>%s</code>.</p>\n", hex);
    } else if (signature->trust == CMD_TRUST_REFUSED) {
        raw(page, "not trusted.</strong> ");
        escaped(page, signature->why.text);
        raw(page, ".</p>\n");
    } else {
        put(page, "not checked.</strong> %s.</p>\n",
            signature->count ? "It claims to be signed, but nobody was asked" : "It is unsigned");
    }
}

static void term(struct page *page, const char *name, const char *value)
{
    put(page, "<dt>%s</dt><dd>", name);
    escaped(page, value);
    raw(page, "</dd>\n");
}

static void term_digest(struct page *page, const char *name, const struct delta_digest *digest)
{
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, digest);
    put(page, "<dt>%s</dt><dd><code>%s</code></dd>\n", name,
        delta_digest_is_zero(digest) ? "none" : hex);
}

static void terms_arch(struct page *page, const struct delta_arch *arch)
{
    char text[128];

    snprintf(text, sizeof text, "%s, stem %s, width %u, input %ux%ux%u", arch->name, arch->stem,
             arch->width, arch->channels, arch->height, arch->image_width);
    term(page, "Network", text);
}

static void terms_made(struct page *page, const struct delta_provenance *made)
{
    char text[160];

    term(page, "Made by", made->device[0] ? made->device : "?");
    term(page, "Method", made->method[0] ? made->method : "?");
    term(page, "Software", made->software[0] ? made->software : "?");
    snprintf(text, sizeof text, "%u new images, %u replayed", made->new_samples,
             made->replay_samples);
    term(page, "From", text);
    if (made->tested_old) {
        snprintf(text, sizeof text, "%.2f %% before, %.2f %% after, on %u images",
                 100 * made->old_before, 100 * made->old_after, made->tested_old);
        term(page, "Old classes", text);
    }
    if (made->tested_new) {
        snprintf(text, sizeof text, "%.2f %% on %u images", 100 * made->new_recall,
                 made->tested_new);
        term(page, "New classes", text);
    }
}

static void classes(struct page *page, const char *title, const struct delta_class_id *ids,
                    size_t count)
{
    put(page, "<h3>%s (%zu)</h3>\n<ul class=\"c\">\n", title, count);
    for (size_t i = 0; i < count; i++) {
        raw(page, "<li>");
        escaped(page, ids[i].text);
        raw(page, "</li>\n");
    }
    raw(page, "</ul>\n");
}

static void delta_classes(struct page *page, const struct cmd_view *view)
{
    const struct delta_comparison *c = view->comparison;

    raw(page, "<h2>Classes</h2>\n");
    if (!c) {
        if (view->reader->classes_dropped)
            put(page, "<p>The last %zu of the base go.</p>\n", view->reader->classes_dropped);
        classes(page, "Added", view->reader->classes_added, view->reader->classes_added_count);
        return;
    }
    put(page, "<p>%zu before, %zu after.</p>\n", view->base->class_count,
        c->classes_kept + c->added_count);
    classes(page, "Added", c->added, c->added_count);
    if (c->removed_count)
        classes(page, "Removed", c->removed, c->removed_count);
    classes(page, "Before", view->base->classes, view->base->class_count);
}

/* ---- drawings ---- */

static double hottest(const struct delta_comparison *comparison)
{
    double most = 0;

    for (size_t i = 0; i < comparison->count; i++)
        for (uint32_t k = 0; k < comparison->changes[i].slices; k++)
            most = fmax(most, comparison->changes[i].heat[k]);
    return most;
}

/* 0 unchanged, then half a decade each up to 8. */
static int level_of(double heat, double most)
{
    const double level = heat > 0 ? 8 + floor(2 * log10(heat / most)) : 0;

    return !(heat > 0) ? 0 : level < 1 ? 1 : level > 8 ? 8 : (int)level;
}

static void draw_map(struct page *page, const struct delta_change *change, double most)
{
    uint32_t hot = 0;

    for (uint32_t i = 1; i < change->slices; i++)
        if (change->heat[i] > change->heat[hot])
            hot = i;
    put(page,
        "<svg role=\"img\" width=\"240\" height=\"16\" viewBox=\"0 0 240 16\"><title>hottest at "
        "%u %% of the tensor, root mean square %.3g</title>",
        change->slices ? 100 * hot / change->slices : 0, change->slices ? change->heat[hot] : 0.0);
    for (uint32_t i = 0; i < change->slices; i++) {
        const unsigned left = i * 240 / change->slices, right = (i + 1) * 240 / change->slices;
        put(page, "<rect class=\"h%d\" x=\"%u\" width=\"%u\" height=\"16\"/>",
            level_of(change->heat[i], most), left, right - left);
    }
    raw(page, "</svg>");
}

/* Changes by size: one bar per power of two, heights by the logarithm of the count. */
static void draw_histogram(struct page *page, const struct delta_change *change)
{
    uint64_t most = 0;
    size_t peak = 0;

    for (size_t i = 0; i < DELTA_CHANGE_BINS; i++)
        if (change->bins[i] > most) {
            most = change->bins[i];
            peak = i;
        }
    put(page, "<svg role=\"img\" width=\"160\" height=\"32\" viewBox=\"0 0 160 32\"><title>");
    if (most)
        put(page, "most changes, %" PRIu64 ", lie between %.2g and %.2g", most,
            ldexp(1, (int)peak + DELTA_CHANGE_LOW), ldexp(1, (int)peak + 1 + DELTA_CHANGE_LOW));
    else
        put(page, "no change");
    raw(page, "</title>");
    for (size_t i = 0; i < DELTA_CHANGE_BINS; i++) {
        const double height =
            change->bins[i] ? 2 + 29 * log1p((double)change->bins[i]) / log1p((double)most) : 0;
        if (height > 0)
            put(page, "<rect class=\"b\" x=\"%zu\" y=\"%.1f\" width=\"4\" height=\"%.1f\"/>", i * 5,
                32 - height, height);
    }
    raw(page, "<path d=\"M0 31.5H160\" stroke=\"currentColor\" stroke-width=\".5\"/></svg>");
}

static void legend(struct page *page, double most)
{
    raw(page,
        "<p>Map: each tensor from front to back in 60 parts, coloured by the root mean square "
        "of the change. Scale:</p>\n<svg role=\"img\" width=\"300\" height=\"34\" "
        "viewBox=\"0 0 300 34\"><title>nine colours from unchanged to the largest"
        "</title>");
    for (int i = 0; i < 9; i++)
        put(page, "<rect class=\"h%d\" x=\"%d\" width=\"32\" height=\"16\"/>", i, i * 33);
    put(page,
        "<text x=\"0\" y=\"30\" font-size=\"11\" fill=\"currentColor\">0</text><text x=\"299\" "
        "y=\"30\" font-size=\"11\" text-anchor=\"end\" fill=\"currentColor\">%.3g</text></svg>\n",
        most);
    put(page,
        "<p>Sizes: changed values by size of their change, one bar for each power of two from "
        "2<sup>%d</sup> to 2<sup>%d</sup>; heights are logarithmic.</p>\n",
        DELTA_CHANGE_LOW, DELTA_CHANGE_LOW + DELTA_CHANGE_BINS);
}

/* ---- tables ---- */

static void head(struct page *page, const char *caption, const char *const *columns)
{
    put(page, "<div class=\"wide\"><table>\n<caption>%s</caption>\n<thead><tr>", caption);
    for (; *columns; columns++)
        put(page, "<th scope=\"col\">%s</th>", *columns);
    raw(page, "</tr></thead>\n<tbody>\n");
}

static void row_name(struct page *page, const char *name, uint32_t rank, const uint64_t *shape)
{
    raw(page, "<tr><th scope=\"row\"><code>");
    escaped(page, name);
    raw(page, "</code></th><td class=\"n\">");
    for (uint32_t i = 0; i < rank; i++)
        put(page, "%s%" PRIu64, i ? "x" : "", shape[i]);
    raw(page, "</td>");
}

static void delta_row(struct page *page, const struct delta_entry *e,
                      const struct delta_change *change, double most)
{
    row_name(page, e->name, e->rank, e->shape);
    put(page,
        "<td>%s</td><td>%s</td><td class=\"n\">%" PRIu64 "</td><td class=\"n\">%" PRIu64 "</td>",
        cmd_scope_name(e), cmd_encoding_name(e), e->elements, e->bytes);
    if (change) {
        put(page,
            "<td class=\"n\">%.1f %%</td><td class=\"n\">%.4g</td><td class=\"n\">%.4g</td><td>",
            100.0 * (double)change->live / (double)change->elements, change->norm, change->largest);
        draw_histogram(page, change);
        raw(page, "</td><td>");
        draw_map(page, change, most);
        raw(page, "</td>");
    } else {
        put(page, "<td class=\"n\">%.1f %%</td>",
            100.0 * (double)e->elements / (double)cmd_entry_total(e));
    }
    raw(page, "</tr>\n");
}

static void delta_table(struct page *page, const struct cmd_view *view)
{
    static const char *const plain[] = {"Tensor", "Shape", "Scope", "Encoding",
                                        "Values", "Bytes", "Share", NULL};
    static const char *const full[] = {"Tensor", "Shape", "Scope",   "Encoding", "Values", "Bytes",
                                       "Live",   "Norm",  "Largest", "Sizes",    "Map",    NULL};
    const struct delta_comparison *c = view->comparison;
    const double most = c ? hottest(c) : 0;

    raw(page, "<h2>Layers</h2>\n");
    if (c)
        legend(page, most);
    else
        raw(page, "<p>The base was not at hand, so this page tells no norms: make it with "
                  "<code>--base</code>.</p>\n");
    head(page, "Tensors that the delta changes", c ? full : plain);
    for (size_t i = 0; i < view->reader->entry_count; i++) {
        const struct delta_entry *e = &view->reader->entries[i];
        delta_row(page, e, c ? delta_comparison_find(c, e->name) : NULL, most);
    }
    raw(page, "</tbody></table></div>\n");
    if (c)
        put(page,
            "<p>%" PRIu64 " of %" PRIu64 " values changed (%.2f %%); the change has norm %.4g, "
            "the base %.4g.</p>\n",
            c->changed, c->elements, 100.0 * (double)c->changed / (double)c->elements, c->norm,
            c->base_norm);
}

static void model_table(struct page *page, const struct delta_model *model)
{
    static const char *const columns[] = {"Tensor", "Shape", "Plan", "Live", "Share", NULL};

    raw(page, "<h2>Layers</h2>\n");
    head(page, "Tensors of the model", columns);
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct delta_tensor *t = &model->tensors[i];
        const size_t live = delta_tensor_live_count(t);
        const double share = (double)live / (double)t->count;
        row_name(page, t->name, t->rank, t->shape);
        put(page,
            "<td>%s</td><td class=\"n\">%zu</td><td><svg role=\"img\" width=\"120\" "
            "height=\"12\" viewBox=\"0 0 120 12\"><title>%.1f %% live</title>"
            "<rect class=\"h0\" width=\"120\" height=\"12\"/>"
            "<rect class=\"b\" width=\"%.1f\" height=\"12\"/></svg></td></tr>\n",
            cmd_freeze_name(t->freeze.mode), live, 100 * share, 120 * share);
    }
    raw(page, "</tbody></table></div>\n");
}

/* ---- the page ---- */

static void fill(struct page *page, const struct cmd_file *file,
                 const struct cmd_signature *signature, const struct cmd_view *view)
{
    char size[16];

    begin(page, file);
    state_box(page, signature, view->comparison != NULL);
    raw(page, "<dl>\n");
    term(page, "Size", delta_human_bytes(size, (double)file->bytes.len));
    if (file->kind == CMD_DELTA) {
        term_digest(page, "Delta", &view->reader->id);
        term_digest(page, "Base", &view->reader->base);
        term_digest(page, "Target", &view->reader->target);
        terms_arch(page, &view->reader->arch);
        if (view->reader->has_provenance)
            terms_made(page, &view->reader->provenance);
        raw(page, "</dl>\n");
        delta_classes(page, view);
        delta_table(page, view);
    } else {
        term_digest(page, "Version", &file->version);
        term_digest(page, "Parent", &file->model.parent);
        terms_arch(page, &file->model.arch);
        raw(page, "</dl>\n<h2>Classes</h2>\n");
        classes(page, "Classes", file->model.classes, file->model.class_count);
        model_table(page, &file->model);
    }
    raw(page, "</main>\n</body>\n</html>\n");
}

enum delta_status cmd_write_html(const char *path, const struct cmd_file *file,
                                 const struct cmd_signature *signature, const struct cmd_view *view,
                                 struct delta_error *err)
{
    struct page page = {.status = DELTA_OK, .err = err};
    enum delta_status st;

    delta_buf_init(&page.buf, PAGE_MAX);
    fill(&page, file, signature, view);
    st = page.status;
    if (!st)
        st = delta_file_write(path, delta_buf_bytes(&page.buf), 0644, err);
    delta_buf_release(&page.buf);
    return st;
}
