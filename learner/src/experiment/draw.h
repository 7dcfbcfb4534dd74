/* A small drawing layer: every stroke goes into an SVG document and into pixels at the same time,
 * so that both pictures show the same. Lines, convex shapes, discs and text; no more than charts
 * need. Coordinates are SVG pixels, y downwards. Private to the folder. */
#ifndef DRAW_H
#define DRAW_H

#include <stdbool.h>

#include "delta/buf.h"

#define DRAW_SCALE 2 /* PNG pixels for one of the SVG */

enum draw_anchor { DRAW_START, DRAW_MIDDLE, DRAW_END };

struct draw_point {
    double x, y;
};

struct draw {
    struct delta_buf svg;
    uint8_t *pixels; /* owned, RGB, [height * DRAW_SCALE, width * DRAW_SCALE, 3] */
    size_t width, height;
    enum delta_status status; /* the first failure: later calls do nothing */
};

/* A white page.  fails: LIMIT, NO_MEMORY */
DELTA_MUST_USE enum delta_status draw_init(struct draw *draw, size_t width, size_t height,
                                           const char *title, struct delta_error *err);
void draw_release(struct draw *draw);

/* colour: 0xRRGGBB; width in pixels. dash: length of dashes and gaps, 0: solid */
void draw_line(struct draw *draw, struct draw_point a, struct draw_point b, unsigned colour,
               double width, double dash);
void draw_path(struct draw *draw, const struct draw_point *points, size_t count, unsigned colour,
               double width, double dash);
void draw_rect(struct draw *draw, double x, double y, double width, double height, unsigned colour);
void draw_disc(struct draw *draw, struct draw_point centre, double radius, unsigned colour);
/* Filled; corners in order, at most 8. */
void draw_convex(struct draw *draw, const struct draw_point *corners, size_t count,
                 unsigned colour);
/* Baseline at `at`. degrees: 0 or -90 (upwards). Characters beyond ASCII show as '?' in the PNG. */
void draw_text(struct draw *draw, struct draw_point at, const char *text, double size,
               enum draw_anchor anchor, double degrees, bool bold, unsigned colour);
double draw_text_width(const char *text, double size);

/* The pixels as a PNG file; out is initialised here.  fails: NO_MEMORY, INTERNAL */
DELTA_MUST_USE enum delta_status draw_encode_png(const struct draw *draw, struct delta_buf *out,
                                                 struct delta_error *err);

/* Writes <stem>.svg and <stem>.png.
 *   fails    what drawing failed with; IO, NO_SPACE */
DELTA_MUST_USE enum delta_status draw_save(struct draw *draw, const char *stem,
                                           struct delta_error *err);

/* One glyph of the stroke font: strokes in a small language (see draw_font.c) and its width. */
struct draw_glyph {
    unsigned width;
    const char *strokes;
};
const struct draw_glyph *draw_glyph(unsigned char character);

#endif
