/* Pixels of a drawing as a PNG file with a palette: charts have few colours. */
#include "draw.h"

#include <limits.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#define PALETTE_MAX 256

struct palette {
    uint8_t colours[PALETTE_MAX][3];
    size_t count;
};

/* The colour's place in the palette; once that is full, the nearest one's. */
static uint8_t palette_index(struct palette *palette, const uint8_t *colour)
{
    size_t best = 0;
    long least = LONG_MAX;

    for (size_t i = 0; i < palette->count; i++) {
        long distance = 0;
        for (int c = 0; c < 3; c++)
            distance += labs((long)palette->colours[i][c] - colour[c]);
        if (distance < least) {
            least = distance;
            best = i;
        }
        if (least == 0)
            return (uint8_t)best;
    }
    if (palette->count == PALETTE_MAX)
        return (uint8_t)best;
    memcpy(palette->colours[palette->count], colour, 3);
    return (uint8_t)palette->count++;
}

static void index_pixels(uint8_t *out, struct palette *palette, const struct draw *draw)
{
    const size_t count = draw->width * draw->height * DRAW_SCALE * DRAW_SCALE;

    for (size_t i = 0; i < count; i++)
        out[i] = i && memcmp(draw->pixels + 3 * i, draw->pixels + 3 * (i - 1), 3) == 0
                     ? out[i - 1]
                     : palette_index(palette, draw->pixels + 3 * i);
}

enum delta_status draw_encode_png(const struct draw *draw, struct delta_buf *out,
                                  struct delta_error *err)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)(draw->width * DRAW_SCALE),
                       .height = (png_uint_32)(draw->height * DRAW_SCALE),
                       .format = PNG_FORMAT_RGB_COLORMAP};
    struct palette palette = {.count = 0};
    uint8_t *indexed = delta_calloc(draw->width * draw->height, DRAW_SCALE * DRAW_SCALE), *at;
    png_alloc_size_t size = 0;
    enum delta_status st = DELTA_OK;

    delta_buf_init(out, (size_t)256 << 20);
    if (!indexed)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for a picture");
    index_pixels(indexed, &palette, draw);
    image.colormap_entries = (png_uint_32)palette.count;
    if (!png_image_write_get_memory_size(image, size, 0, indexed, 0, palette.colours))
        st = delta_fail(err, DELTA_INTERNAL, "cannot encode a PNG: %s", image.message);
    if (!st)
        st = delta_buf_extend(out, size, &at, err);
    if (!st && !png_image_write_to_memory(&image, at, &size, 0, indexed, 0, palette.colours))
        st = delta_fail(err, DELTA_INTERNAL, "cannot encode a PNG: %s", image.message);
    if (!st)
        out->len = size;
    png_image_free(&image);
    free(indexed);
    return st;
}
