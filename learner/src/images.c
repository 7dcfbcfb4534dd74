#include "images.h"

#include <math.h>
#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libjpeg wants stdio before it */
#include <jerror.h>
#include <jpeglib.h>

#define JPEG_MAX_SCANS 200 /* progressive files: a known way to burn time */
#define JPEG_MAX_MEMORY (192L << 20)

void learner_image_release(struct learner_image *image)
{
    if (!image)
        return;
    free(image->pixels);
    *image = (struct learner_image){0, 0, NULL};
}

static enum delta_status reserve(struct learner_image *image, uint64_t width, uint64_t height,
                                 struct delta_error *err)
{
    if (width == 0 || height == 0)
        return delta_fail(err, DELTA_FORMAT, "image has no pixels");
    if (width > LEARNER_IMAGE_MAX_SIDE || height > LEARNER_IMAGE_MAX_SIDE ||
        width * height * 3 > LEARNER_IMAGE_MAX_DECODED)
        return delta_fail(err, DELTA_LIMIT,
                          "image of %llux%llu pixels is larger than allowed (%d a side, %zu MB)",
                          (unsigned long long)width, (unsigned long long)height,
                          LEARNER_IMAGE_MAX_SIDE, LEARNER_IMAGE_MAX_DECODED >> 20);
    image->pixels = delta_calloc((size_t)(width * height), 3);
    if (!image->pixels)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory for an image of %llux%llu pixels",
                          (unsigned long long)width, (unsigned long long)height);
    image->width = (uint32_t)width;
    image->height = (uint32_t)height;
    return DELTA_OK;
}

static enum delta_status decode_png(struct learner_image *out, struct delta_bytes file,
                                    struct delta_error *err)
{
    const png_color white = {255, 255, 255};
    png_image png = {.version = PNG_IMAGE_VERSION};
    enum delta_status st;

    if (!png_image_begin_read_from_memory(&png, file.data, file.len))
        return delta_fail(err, DELTA_FORMAT, "damaged PNG: %s", png.message);
    st = reserve(out, png.width, png.height, err);
    if (st) {
        png_image_free(&png);
        return st;
    }
    png.format = PNG_FORMAT_RGB;
    if (!png_image_finish_read(&png, &white, out->pixels, 0, NULL))
        return delta_fail(err, DELTA_FORMAT, "damaged PNG: %s", png.message);
    if (png.warning_or_error & PNG_IMAGE_ERROR)
        return delta_fail(err, DELTA_FORMAT, "damaged PNG: %s", png.message);
    return DELTA_OK;
}

/* libjpeg's way to fail is to call back; we jump out. */
struct jpeg_guard {
    struct jpeg_error_mgr manager; /* first: libjpeg hands back a pointer to it */
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    bool short_data;
    char text[JMSG_LENGTH_MAX];
};

static void jpeg_fail(j_common_ptr info)
{
    struct jpeg_guard *guard = (struct jpeg_guard *)info->err;

    guard->manager.format_message(info, guard->text);
    longjmp(guard->jump, 1);
}

static void jpeg_message(j_common_ptr info, int level)
{
    struct jpeg_guard *guard = (struct jpeg_guard *)info->err;
    const int code = guard->manager.msg_code;

    /* libjpeg pads what is missing with grey and only warns: for learning that is damage. */
    if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) {
        guard->short_data = true;
        jpeg_fail(info);
    }
}

static void jpeg_watch(j_common_ptr info)
{
    struct jpeg_guard *guard = (struct jpeg_guard *)info->err;

    if (info->is_decompressor && ((j_decompress_ptr)info)->input_scan_number > JPEG_MAX_SCANS) {
        snprintf(guard->text, sizeof guard->text, "more than %d scans", JPEG_MAX_SCANS);
        longjmp(guard->jump, 1);
    }
}

static enum delta_status decode_jpeg(struct learner_image *out, struct delta_bytes file,
                                     struct delta_error *err)
{
    struct jpeg_decompress_struct jpeg = {0};
    struct jpeg_guard guard = {0};
    enum delta_status st = DELTA_OK;

    jpeg.err = jpeg_std_error(&guard.manager);
    guard.manager.error_exit = jpeg_fail;
    guard.manager.emit_message = jpeg_message;
    guard.progress.progress_monitor = jpeg_watch;
    if (setjmp(guard.jump)) {
        jpeg_destroy_decompress(&jpeg);
        return delta_fail(err, guard.short_data ? DELTA_TRUNCATED : DELTA_FORMAT,
                          "damaged JPEG: %s", guard.text);
    }
    jpeg_create_decompress(&jpeg);
    jpeg.mem->max_memory_to_use = JPEG_MAX_MEMORY;
    jpeg.progress = &guard.progress;
    jpeg_mem_src(&jpeg, file.data, (unsigned long)file.len);
    jpeg_read_header(&jpeg, TRUE);
    if (jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK) {
        jpeg_destroy_decompress(&jpeg);
        return delta_fail(err, DELTA_UNSUPPORTED, "JPEG in CMYK; save it as RGB");
    }
    st = reserve(out, jpeg.image_width, jpeg.image_height, err);
    if (!st) {
        jpeg.out_color_space = JCS_RGB;
        jpeg_start_decompress(&jpeg);
        while (jpeg.output_scanline < jpeg.output_height) {
            JSAMPROW row = out->pixels + (size_t)jpeg.output_scanline * out->width * 3;
            jpeg_read_scanlines(&jpeg, &row, 1);
        }
        jpeg_finish_decompress(&jpeg);
    }
    jpeg_destroy_decompress(&jpeg);
    return st;
}

enum delta_status learner_image_decode(struct learner_image *out, struct delta_bytes file,
                                       struct delta_error *err)
{
    static const uint8_t png_magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    struct learner_image made = {0, 0, NULL};
    enum delta_status st;

    if (file.len == 0)
        return delta_fail(err, DELTA_FORMAT, "image is empty");
    if (file.len >= 8 && memcmp(file.data, png_magic, 8) == 0)
        st = decode_png(&made, file, err);
    else if (file.len >= 3 && file.data[0] == 0xff && file.data[1] == 0xd8 && file.data[2] == 0xff)
        st = decode_jpeg(&made, file, err);
    else
        st = delta_fail(err, DELTA_FORMAT, "neither PNG nor JPEG");
    if (st) {
        learner_image_release(&made);
        return st;
    }
    *out = made;
    return DELTA_OK;
}

/* ---- resizing: separable, one table of taps per axis ---- */

struct taps {
    size_t width;  /* taps per output */
    size_t *first; /* [outputs] */
    float *weight; /* [outputs, width], rows sum to 1 */
};

static void taps_release(struct taps *taps)
{
    free(taps->first);
    free(taps->weight);
}

/* Outputs 0..count-1 cover source positions [from, from+span) of an axis of `size` pixels. */
static bool taps_make(struct taps *taps, size_t count, double from, double span, size_t size)
{
    const double step = span / (double)count;
    const double reach = step > 1 ? step : 1;

    taps->width = (size_t)(2 * reach) + 2;
    taps->first = delta_calloc(count, sizeof *taps->first);
    taps->weight = delta_calloc(count * taps->width, sizeof *taps->weight);
    if (!taps->first || !taps->weight)
        return false;
    for (size_t i = 0; i < count; i++) {
        const double centre = from + ((double)i + 0.5) * step;
        double low = floor(centre - reach), sum = 0;
        if (low < 0)
            low = 0;
        taps->first[i] = (size_t)low;
        float *weight = taps->weight + i * taps->width;
        for (size_t t = 0; t < taps->width && taps->first[i] + t < size; t++) {
            const double away = fabs((double)(taps->first[i] + t) + 0.5 - centre) / reach;
            weight[t] = away < 1 ? (float)(1 - away) : 0;
            sum += weight[t];
        }
        for (size_t t = 0; t < taps->width; t++)
            weight[t] = (float)(weight[t] / sum);
    }
    return true;
}

static void fit_rows(float *out, size_t width, const struct learner_image *image,
                     const struct taps *taps)
{
    for (size_t y = 0; y < image->height; y++) {
        const uint8_t *row = image->pixels + y * image->width * 3;
        for (size_t x = 0; x < width; x++) {
            float sum[3] = {0, 0, 0};
            for (size_t t = 0; t < taps->width && taps->first[x] + t < image->width; t++) {
                const float weight = taps->weight[x * taps->width + t];
                const uint8_t *pixel = row + (taps->first[x] + t) * 3;
                for (int c = 0; c < 3; c++)
                    sum[c] += weight * pixel[c];
            }
            memcpy(out + (y * width + x) * 3, sum, sizeof sum);
        }
    }
}

static void fit_columns(uint8_t *out, size_t height, size_t width, const float *rows,
                        size_t source_height, const struct taps *taps)
{
    for (size_t y = 0; y < height; y++)
        for (size_t x = 0; x < width; x++)
            for (size_t c = 0; c < 3; c++) {
                float sum = 0.5f;
                for (size_t t = 0; t < taps->width && taps->first[y] + t < source_height; t++)
                    sum += taps->weight[y * taps->width + t] *
                           rows[((taps->first[y] + t) * width + x) * 3 + c];
                out[(c * height + y) * width + x] = (uint8_t)(sum > 255 ? 255 : sum);
            }
}

static void split_planes(uint8_t *out, const struct learner_image *image)
{
    const size_t plane = (size_t)image->width * image->height;

    for (size_t p = 0; p < plane; p++)
        for (size_t c = 0; c < 3; c++)
            out[c * plane + p] = image->pixels[3 * p + c];
}

enum delta_status learner_image_fit(uint8_t *out, uint32_t height, uint32_t width,
                                    const struct learner_image *image, struct delta_error *err)
{
    struct taps across = {0, NULL, NULL}, down = {0, NULL, NULL};
    double part_width = image->width, part_height = image->height;
    enum delta_status st = DELTA_OK;
    float *rows = NULL;
    size_t count;

    if (image->width == width && image->height == height) {
        split_planes(out, image);
        return DELTA_OK;
    }
    if (part_width * height > part_height * width)
        part_width = part_height * width / height;
    else
        part_height = part_width * height / width;
    if (delta_size_mul(image->height, (size_t)width * 3, &count))
        rows = delta_calloc(count, sizeof *rows);
    if (!rows ||
        !taps_make(&across, width, (image->width - part_width) / 2, part_width, image->width) ||
        !taps_make(&down, height, (image->height - part_height) / 2, part_height, image->height)) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for resizing an image");
        goto done;
    }
    fit_rows(rows, width, image, &across);
    fit_columns(out, height, width, rows, image->height, &down);
done:
    free(rows);
    taps_release(&across);
    taps_release(&down);
    return st;
}
