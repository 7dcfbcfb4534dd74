#include "draw.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"

#define MAX_SIDE 4000
#define MAX_SVG_BYTES ((size_t)16 << 20)
#define UNIT 0.08    /* of the font's size: one step of the glyph grid */
#define BEARING 1.35 /* steps of room on either side of a glyph */
#define CURVE_PIECES 8
#define CORNERS_MAX 8
#define SHADES 6

/* ---- SVG ---- */

static void put(struct draw *draw, const char *fmt, ...) DELTA_PRINTF(2, 3);

static void put(struct draw *draw, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    const int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!draw->status && len > 0)
        draw->status = delta_buf_append(
            &draw->svg, text, (size_t)len < sizeof text ? (size_t)len : sizeof text - 1, NULL);
}

static void put_escaped(struct draw *draw, const char *text)
{
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '&')
            put(draw, "&amp;");
        else if (c == '<')
            put(draw, "&lt;");
        else if (c == '>')
            put(draw, "&gt;");
        else if (c == '"')
            put(draw, "&quot;");
        else if (c >= 32)
            put(draw, "%c", c);
    }
}

enum delta_status draw_init(struct draw *draw, size_t width, size_t height, const char *title,
                            struct delta_error *err)
{
    *draw = (struct draw){.width = width, .height = height};
    if (width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE)
        return delta_fail(err, DELTA_LIMIT, "a picture of %zu x %zu pixels is too large", width,
                          height);
    draw->pixels = delta_calloc(width * height, 3 * DRAW_SCALE * DRAW_SCALE);
    if (!draw->pixels)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for a picture");
    memset(draw->pixels, 255, width * height * 3 * DRAW_SCALE * DRAW_SCALE);
    delta_buf_init(&draw->svg, MAX_SVG_BYTES);
    put(draw,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %zu %zu\" width=\"%zu\" "
        "height=\"%zu\" font-family=\"Helvetica, Arial, sans-serif\">\n<title>",
        width, height, width, height);
    put_escaped(draw, title);
    put(draw, "</title>\n<rect width=\"%zu\" height=\"%zu\" fill=\"#ffffff\"/>\n", width, height);
    return DELTA_OK;
}

void draw_release(struct draw *draw)
{
    delta_buf_release(&draw->svg);
    free(draw->pixels);
    *draw = (struct draw){.width = 0};
}

/* ---- pixels ---- */

/* Mixes a colour in; share 0..1 of the pixel is covered. Pixels outside are left alone. */
static void cover(struct draw *draw, long x, long y, unsigned colour, double share)
{
    if (x < 0 || y < 0 || x >= (long)(draw->width * DRAW_SCALE) ||
        y >= (long)(draw->height * DRAW_SCALE) || share <= 0)
        return;
    uint8_t *pixel = draw->pixels + ((size_t)y * draw->width * DRAW_SCALE + (size_t)x) * 3;
    share = share > 1 ? 1 : ceil(share * SHADES) / SHADES; /* few shades: the file is a palette */
    for (int c = 0; c < 3; c++) {
        const double wanted = (colour >> (16 - 8 * c)) & 0xff;
        pixel[c] = (uint8_t)lround(pixel[c] + share * (wanted - pixel[c]));
    }
}

/* How far a pixel's centre lies outside a shape, in pixels; negative inside. */
typedef double distance_to(const void *shape, double x, double y);

static void paint(struct draw *draw, const void *shape, distance_to *distance, double left,
                  double top, double right, double bottom, unsigned colour)
{
    for (long y = (long)floor(top) - 1; y <= (long)ceil(bottom) + 1; y++)
        for (long x = (long)floor(left) - 1; x <= (long)ceil(right) + 1; x++)
            cover(draw, x, y, colour, 0.5 - distance(shape, (double)x + 0.5, (double)y + 0.5));
}

struct capsule {
    double ax, ay, bx, by, radius;
};

static double capsule_distance(const void *shape, double x, double y)
{
    const struct capsule *c = shape;
    const double dx = c->bx - c->ax, dy = c->by - c->ay, length = dx * dx + dy * dy;
    double t = length > 0 ? ((x - c->ax) * dx + (y - c->ay) * dy) / length : 0;

    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return hypot(x - c->ax - t * dx, y - c->ay - t * dy) - c->radius;
}

/* In SVG coordinates. */
static void stroke(struct draw *draw, struct draw_point a, struct draw_point b, unsigned colour,
                   double width)
{
    const double s = DRAW_SCALE;
    const struct capsule c = {s * a.x, s * a.y, s * b.x, s * b.y, s * width / 2};

    paint(draw, &c, capsule_distance, fmin(c.ax, c.bx) - c.radius, fmin(c.ay, c.by) - c.radius,
          fmax(c.ax, c.bx) + c.radius, fmax(c.ay, c.by) + c.radius, colour);
}

/* A line with its dashes; *phase goes on over the pieces of a path. */
static void stroke_dashed(struct draw *draw, struct draw_point a, struct draw_point b,
                          unsigned colour, double width, double dash, double *phase)
{
    const double length = hypot(b.x - a.x, b.y - a.y);

    if (dash <= 0) {
        stroke(draw, a, b, colour, width);
        return;
    }
    for (double at = 0; at < length;) {
        const double within = fmod(*phase, 2 * dash);
        const bool on = within < dash;
        const double step = fmin(length - at, (on ? dash : 2 * dash) - within + 1e-9);
        const double u = at / length, v = (at + step) / length;
        if (on)
            stroke(draw, (struct draw_point){a.x + u * (b.x - a.x), a.y + u * (b.y - a.y)},
                   (struct draw_point){a.x + v * (b.x - a.x), a.y + v * (b.y - a.y)}, colour,
                   width);
        at += step;
        *phase += step;
    }
}

void draw_path(struct draw *draw, const struct draw_point *points, size_t count, unsigned colour,
               double width, double dash)
{
    double phase = 0;

    if (count < 2)
        return;
    put(draw, "<polyline fill=\"none\" stroke=\"#%06x\" stroke-width=\"%.4g\" ", colour, width);
    put(draw, "stroke-linejoin=\"round\" stroke-linecap=\"round\" ");
    if (dash > 0)
        put(draw, "stroke-dasharray=\"%.4g %.4g\" ", dash, dash);
    put(draw, "points=\"");
    for (size_t i = 0; i < count; i++)
        put(draw, "%s%.2f,%.2f", i ? " " : "", points[i].x, points[i].y);
    put(draw, "\"/>\n");
    for (size_t i = 0; i + 1 < count; i++)
        stroke_dashed(draw, points[i], points[i + 1], colour, width, dash, &phase);
}

void draw_line(struct draw *draw, struct draw_point a, struct draw_point b, unsigned colour,
               double width, double dash)
{
    const struct draw_point ends[2] = {a, b};

    draw_path(draw, ends, 2, colour, width, dash);
}

struct polygon {
    struct draw_point corners[CORNERS_MAX];
    size_t count;
    double turn; /* 1 or -1: which way round */
};

static double polygon_distance(const void *shape, double x, double y)
{
    const struct polygon *p = shape;
    double most = -1e9;

    for (size_t i = 0; i < p->count; i++) {
        const struct draw_point a = p->corners[i], b = p->corners[(i + 1) % p->count];
        const double dx = b.x - a.x, dy = b.y - a.y, length = hypot(dx, dy);
        if (length > 0)
            most = fmax(most, p->turn * ((x - a.x) * dy - (y - a.y) * dx) / length);
    }
    return most;
}

static void fill(struct draw *draw, const struct draw_point *corners, size_t count, unsigned colour)
{
    struct polygon p = {.count = count < CORNERS_MAX ? count : CORNERS_MAX};
    double left = 1e9, top = 1e9, right = -1e9, bottom = -1e9, area = 0;

    for (size_t i = 0; i < p.count; i++) {
        const struct draw_point next = corners[(i + 1) % p.count];
        p.corners[i] = (struct draw_point){DRAW_SCALE * corners[i].x, DRAW_SCALE * corners[i].y};
        left = fmin(left, p.corners[i].x);
        right = fmax(right, p.corners[i].x);
        top = fmin(top, p.corners[i].y);
        bottom = fmax(bottom, p.corners[i].y);
        area += corners[i].x * next.y - next.x * corners[i].y;
    }
    p.turn = area > 0 ? 1 : -1;
    paint(draw, &p, polygon_distance, left, top, right, bottom, colour);
}

void draw_convex(struct draw *draw, const struct draw_point *corners, size_t count, unsigned colour)
{
    put(draw, "<polygon fill=\"#%06x\" points=\"", colour);
    for (size_t i = 0; i < count; i++)
        put(draw, "%s%.2f,%.2f", i ? " " : "", corners[i].x, corners[i].y);
    put(draw, "\"/>\n");
    fill(draw, corners, count, colour);
}

void draw_rect(struct draw *draw, double x, double y, double width, double height, unsigned colour)
{
    const struct draw_point corners[4] = {
        {x, y}, {x + width, y}, {x + width, y + height}, {x, y + height}};

    put(draw, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"#%06x\"/>\n", x, y,
        width, height, colour);
    fill(draw, corners, 4, colour);
}

void draw_disc(struct draw *draw, struct draw_point centre, double radius, unsigned colour)
{
    put(draw, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"%.2f\" fill=\"#%06x\"/>\n", centre.x, centre.y,
        radius, colour);
    stroke(draw, centre, centre, colour, 2 * radius);
}

/* ---- text ---- */

struct pen {
    struct draw *draw;
    struct draw_point origin; /* of the glyph */
    double unit, width, cosine, sine;
    unsigned colour;
};

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static struct draw_point place(const struct pen *pen, double x, double y)
{
    const double right = x * pen->unit, up = (y - 4) * pen->unit;

    return (struct draw_point){pen->origin.x + right * pen->cosine + up * pen->sine,
                               pen->origin.y + right * pen->sine - up * pen->cosine};
}

static struct draw_point between(struct draw_point a, struct draw_point b)
{
    return (struct draw_point){(a.x + b.x) / 2, (a.y + b.y) / 2};
}

static void curve(const struct pen *pen, struct draw_point a, struct draw_point control,
                  struct draw_point b)
{
    struct draw_point last = a;

    for (int i = 1; i <= CURVE_PIECES; i++) {
        const double t = (double)i / CURVE_PIECES, u = 1 - t;
        const struct draw_point next = {u * u * a.x + 2 * u * t * control.x + t * t * b.x,
                                        u * u * a.y + 2 * u * t * control.y + t * t * b.y};
        stroke(pen->draw, last, next, pen->colour, pen->width);
        last = next;
    }
}

static void draw_stroke(const struct pen *pen, char kind, const struct draw_point *points,
                        size_t count)
{
    for (size_t i = 0; kind == 'L' && i + 1 < count; i++)
        stroke(pen->draw, points[i], points[i + 1], pen->colour, pen->width);
    for (size_t i = 0; kind == 'O' && i < count; i++)
        curve(pen, between(points[(i + count - 1) % count], points[i]), points[i],
              between(points[i], points[(i + 1) % count]));
    for (size_t i = 1; kind == 'S' && i + 1 < count; i++)
        curve(pen, i == 1 ? points[0] : between(points[i - 1], points[i]), points[i],
              i + 2 == count ? points[count - 1] : between(points[i], points[i + 1]));
}

static void draw_one(const struct pen *pen, const char *strokes)
{
    struct draw_point points[16];

    while (*strokes) {
        const char kind = *strokes++;
        size_t count = 0;
        for (; count < 16 && digit(strokes[0]) >= 0 && digit(strokes[1]) >= 0; strokes += 2)
            points[count++] = place(pen, digit(strokes[0]), digit(strokes[1]));
        draw_stroke(pen, kind, points, count);
        strokes += *strokes == ' ';
    }
}

static bool begins_character(const char *text)
{
    return ((unsigned char)*text & 0xc0) != 0x80;
}

double draw_text_width(const char *text, double size)
{
    double steps = 0;

    for (; *text; text++)
        if (begins_character(text))
            steps += draw_glyph((unsigned char)*text)->width + 2 * BEARING;
    return steps * UNIT * size;
}

static void draw_letters(struct draw *draw, struct draw_point at, const char *text, double size,
                         double shift, double degrees, bool bold, unsigned colour)
{
    const double angle = degrees * 0.017453292519943295;
    struct pen pen = {draw,       at,         UNIT * size, (bold ? 0.135 : 0.09) * size,
                      cos(angle), sin(angle), colour};

    pen.origin.x += shift * pen.cosine;
    pen.origin.y += shift * pen.sine;
    for (; *text; text++) {
        if (!begins_character(text))
            continue;
        const struct draw_glyph *glyph = draw_glyph((unsigned char)*text);
        pen.origin.x += BEARING * pen.unit * pen.cosine;
        pen.origin.y += BEARING * pen.unit * pen.sine;
        draw_one(&pen, glyph->strokes);
        pen.origin.x += (glyph->width + BEARING) * pen.unit * pen.cosine;
        pen.origin.y += (glyph->width + BEARING) * pen.unit * pen.sine;
    }
}

void draw_text(struct draw *draw, struct draw_point at, const char *text, double size,
               enum draw_anchor anchor, double degrees, bool bold, unsigned colour)
{
    static const char *const names[] = {"start", "middle", "end"};
    const double width = draw_text_width(text, size);

    put(draw, "<text x=\"%.2f\" y=\"%.2f\" font-size=\"%.4g\" text-anchor=\"%s\" fill=\"#%06x\"",
        at.x, at.y, size, names[anchor], colour);
    if (degrees != 0)
        put(draw, " transform=\"rotate(%.4g %.2f %.2f)\"", degrees, at.x, at.y);
    put(draw, "%s>", bold ? " font-weight=\"bold\"" : "");
    put_escaped(draw, text);
    put(draw, "</text>\n");
    draw_letters(draw, at, text, size,
                 anchor == DRAW_START    ? 0
                 : anchor == DRAW_MIDDLE ? -width / 2
                                         : -width,
                 degrees, bold, colour);
}

/* ---- files ---- */

enum delta_status draw_save(struct draw *draw, const char *stem, struct delta_error *err)
{
    char path[1200];
    struct delta_buf png = {0};
    enum delta_status st;

    put(draw, "</svg>\n");
    if (draw->status)
        return delta_fail(err, draw->status, "cannot draw '%s': %s", stem,
                          delta_status_text(draw->status));
    snprintf(path, sizeof path, "%s.svg", stem);
    st = delta_file_write(path, delta_buf_bytes(&draw->svg), 0644, err);
    if (!st)
        st = draw_encode_png(draw, &png, err);
    snprintf(path, sizeof path, "%s.png", stem);
    if (!st)
        st = delta_file_write(path, delta_buf_bytes(&png), 0644, err);
    delta_buf_release(&png);
    return st;
}
