#include "harness.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jpeglib.h>

#include "delta/file.h"
#include "images.h"
#include "learner/samples.h"

/* A file image in memory. */
struct file {
    uint8_t *data;
    size_t len;
};

static struct file make_png(uint32_t width, uint32_t height, uint32_t format, const void *pixels)
{
    png_image png = {
        .version = PNG_IMAGE_VERSION, .width = width, .height = height, .format = format};
    png_alloc_size_t len = 0;
    struct file file;

    assert_true(png_image_write_to_memory(&png, NULL, &len, 0, pixels, 0, NULL));
    file.data = malloc(len);
    assert_true(png_image_write_to_memory(&png, file.data, &len, 0, pixels, 0, NULL));
    file.len = len;
    return file;
}

static struct file make_jpeg(uint32_t width, uint32_t height, int components, uint8_t value)
{
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr manager;
    uint8_t *row = malloc((size_t)width * (size_t)components);
    unsigned char *data = NULL;
    unsigned long len = 0;

    memset(row, value, (size_t)width * (size_t)components);
    jpeg.err = jpeg_std_error(&manager);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &data, &len);
    jpeg.image_width = width;
    jpeg.image_height = height;
    jpeg.input_components = components;
    jpeg.in_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&jpeg);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < height)
        jpeg_write_scanlines(&jpeg, &row, 1);
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    free(row);
    return (struct file){data, len};
}

static enum delta_status decode(struct learner_image *image, struct file file,
                                struct delta_error *err)
{
    /* a copy of exactly this size, so that a sanitizer sees one byte too far */
    uint8_t *copy = malloc(file.len ? file.len : 1);
    if (file.len)
        memcpy(copy, file.data, file.len);
    const enum delta_status st = learner_image_decode(image, delta_bytes(copy, file.len), err);
    free(copy);
    return st;
}

static void image_png_pixels_survive(void **state)
{
    const uint8_t pixels[12] = {255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7};
    struct learner_image image = {0, 0, NULL};
    struct delta_error err = DELTA_ERROR_INIT;
    struct file file = make_png(2, 2, PNG_FORMAT_RGB, pixels);
    uint8_t planar[12];
    (void)state;

    assert_ok(decode(&image, file, &err));
    assert_int_equal(image.width, 2);
    assert_memory_equal(image.pixels, pixels, 12);
    assert_ok(learner_image_fit(planar, 2, 2, &image, &err));
    assert_int_equal(planar[0], 255);
    assert_int_equal(planar[3], 9);
    assert_int_equal(planar[4 + 1], 255);
    assert_int_equal(planar[8 + 3], 7);
    learner_image_release(&image);
    free(file.data);
}

static void image_grey_alpha_palette_become_rgb(void **state)
{
    const uint8_t grey[2] = {10, 250}, alpha[8] = {200, 100, 50, 255, 200, 100, 50, 0};
    struct learner_image image = {0, 0, NULL};
    struct delta_error err = DELTA_ERROR_INIT;
    struct file file = make_png(2, 1, PNG_FORMAT_GRAY, grey);
    (void)state;

    assert_ok(decode(&image, file, &err));
    assert_int_equal(image.pixels[0], 10);
    assert_int_equal(image.pixels[1], 10);
    assert_int_equal(image.pixels[5], 250);
    learner_image_release(&image);
    free(file.data);
    file = make_png(2, 1, PNG_FORMAT_RGBA, alpha);
    assert_ok(decode(&image, file, &err));
    assert_int_equal(image.pixels[0], 200);
    assert_int_equal(image.pixels[3], 255); /* transparent: white shows */
    learner_image_release(&image);
    free(file.data);
    file = make_jpeg(9, 7, 1, 77);
    assert_ok(decode(&image, file, &err));
    assert_int_equal(image.width, 9);
    for (int i = 0; i < 9 * 7 * 3; i++)
        assert_in_range(image.pixels[i], 75, 79);
    learner_image_release(&image);
    free(file.data);
}

/* Every prefix of a PNG and of a JPEG fails and none gives an image. */
static void image_truncation_is_rejected(void **state)
{
    uint8_t pixels[16 * 16 * 3];
    struct file files[2];
    (void)state;

    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * 37);
    files[0] = make_png(16, 16, PNG_FORMAT_RGB, pixels);
    files[1] = make_jpeg(16, 16, 3, 120);
    for (int f = 0; f < 2; f++) {
        /* a PNG's last 12 bytes (IEND) and a JPEG's last 2 (EOI) carry no pixels */
        const size_t full = files[f].len - (f == 0 ? 12 : 2);
        for (size_t len = 0; len < full; len++) {
            struct learner_image image = {0, 0, NULL};
            struct delta_error err = DELTA_ERROR_INIT;
            if (!decode(&image, (struct file){files[f].data, len}, &err))
                fail_msg("file %d cut to %zu of %zu bytes was taken", f, len, files[f].len);
            assert_null(image.pixels);
            assert_true(err.text[0] != '\0');
        }
        free(files[f].data);
    }
}

/* Flipped bytes may or may not give an image, but nothing worse happens. */
static void image_damage_is_survived(void **state)
{
    struct file file = make_jpeg(24, 24, 3, 90);
    (void)state;

    for (size_t at = 0; at < file.len; at++)
        for (int bit = 0; bit < 8; bit += 3) {
            struct learner_image image = {0, 0, NULL};
            struct delta_error err = DELTA_ERROR_INIT;
            file.data[at] ^= (uint8_t)(1 << bit);
            if (!decode(&image, file, &err))
                learner_image_release(&image);
            file.data[at] ^= (uint8_t)(1 << bit);
        }
    free(file.data);
}

static void image_huge_declared_size_is_refused(void **state)
{
    const uint8_t pixels[3] = {1, 2, 3};
    struct learner_image image = {0, 0, NULL};
    struct delta_error err = DELTA_ERROR_INIT;
    struct file file = make_jpeg(8, 8, 3, 1);
    (void)state;

    for (size_t i = 0; i + 9 < file.len; i++)
        if (file.data[i] == 0xff && file.data[i + 1] == 0xc0) {
            memcpy(file.data + i + 5, "\x75\x30\x75\x30", 4); /* height, width: 30000 */
            break;
        }
    assert_status(decode(&image, file, &err), DELTA_LIMIT);
    assert_non_null(strstr(err.text, "30000"));
    free(file.data);
    /* PNG: 30000x30000 with a right checksum */
    file = make_png(1, 1, PNG_FORMAT_RGB, pixels);
    static const uint8_t header[] = {0,    0, 0, 13,   'I',  'H', 'D', 'R', 0, 0, 0x75,
                                     0x30, 0, 0, 0x75, 0x30, 8,   2,   0,   0, 0};
    uint32_t crc = 0xffffffff;
    memcpy(file.data + 8, header, sizeof header);
    for (size_t i = 12; i < 29; i++) {
        crc ^= file.data[i];
        for (int k = 0; k < 8; k++)
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
    }
    crc = ~crc;
    for (int i = 0; i < 4; i++)
        file.data[29 + i] = (uint8_t)(crc >> (24 - 8 * i));
    assert_status(decode(&image, file, &err), DELTA_LIMIT);
    assert_non_null(strstr(err.text, "30000"));
    free(file.data);
}

static void image_cmyk_names_the_remedy(void **state)
{
    struct learner_image image = {0, 0, NULL};
    struct delta_error err = DELTA_ERROR_INIT;
    struct file file = make_jpeg(8, 8, 4, 1);
    (void)state;

    assert_status(decode(&image, file, &err), DELTA_UNSUPPORTED);
    assert_non_null(strstr(err.text, "save it as RGB"));
    free(file.data);
}

static void image_fit_averages_and_crops(void **state)
{
    struct learner_image image = {64, 32, calloc(64 * 32, 3)};
    struct delta_error err = DELTA_ERROR_INIT;
    uint8_t out[3 * 16 * 16];
    (void)state;

    /* red in the outer quarters, 1-pixel checker of 0 and 200 green in the middle square */
    for (int y = 0; y < 32; y++)
        for (int x = 0; x < 64; x++) {
            uint8_t *pixel = image.pixels + (y * 64 + x) * 3;
            if (x < 14 || x >= 50)
                pixel[0] = 255;
            else
                pixel[1] = (x + y) % 2 ? 200 : 0;
        }
    assert_ok(learner_image_fit(out, 16, 16, &image, &err));
    for (int i = 0; i < 256; i++) {
        assert_int_equal(out[i], 0); /* nothing of the cropped sides */
        assert_in_range(out[256 + i], 98, 102);
    }
    learner_image_release(&image);
    /* growing: a flat image stays flat */
    image = (struct learner_image){3, 5, malloc(45)};
    memset(image.pixels, 123, 45);
    assert_ok(learner_image_fit(out, 16, 16, &image, &err));
    for (size_t i = 0; i < sizeof out; i++)
        assert_int_equal(out[i], 123);
    learner_image_release(&image);
}

/* ---- folders ---- */

static void put(const struct harness_scratch *scratch, const char *name, struct file file)
{
    struct delta_error err = DELTA_ERROR_INIT;

    assert_ok(delta_file_write(harness_path(scratch, name), delta_bytes(file.data, file.len), 0644,
                               &err));
}

static void folder_reads_what_it_can_and_reports(void **state)
{
    uint8_t pixels[32 * 32 * 3];
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct learner_folder_report report;
    struct delta_error err = DELTA_ERROR_INIT;
    const struct delta_class_id id = {"thing"};
    struct harness_scratch scratch;
    (void)state;

    harness_scratch_make(&scratch);
    memset(pixels, 40, sizeof pixels);
    struct file png = make_png(32, 32, PNG_FORMAT_RGB, pixels), jpeg = make_jpeg(100, 80, 3, 200);
    put(&scratch, "b.png", png);
    put(&scratch, "a.JPG", jpeg);
    put(&scratch, "disguised.png", jpeg); /* content decides */
    put(&scratch, "notes.txt", png);      /* not looked at */
    put(&scratch, "empty.png", (struct file){pixels, 0});
    put(&scratch, "text.png", (struct file){(uint8_t *)(uintptr_t) "hello, not an image", 19});
    put(&scratch, "cut.jpg", (struct file){jpeg.data, jpeg.len / 2});
    assert_int_equal(mkdir(harness_path(&scratch, "dir.png"), 0755), 0);
    assert_ok(learner_samples_folder(&set, scratch.path, &id, 32, 32, 0, &report, &err));
    assert_int_equal(report.read, 3);
    assert_int_equal(report.resized, 2);
    assert_int_equal(report.skipped, 4);
    assert_non_null(strstr(report.first_problem, "'cut.jpg'"));
    assert_int_equal(set.count, 3);
    assert_string_equal(set.classes[0].text, "thing");
    assert_in_range(set.pixels[0], 198, 202); /* a.JPG is first: names are sorted */
    assert_int_equal(set.pixels[3072], 40);
    learner_samples_release(&set);
    assert_status(learner_samples_folder(&set, scratch.path, &id, 32, 32, 5, &report, &err),
                  DELTA_LIMIT);
    harness_scratch_remove(&scratch);
    free(png.data);
    free(jpeg.data);
}

static void folder_without_images_is_an_error(void **state)
{
    struct learner_samples set = LEARNER_SAMPLES_INIT;
    struct learner_folder_report report;
    struct delta_error err = DELTA_ERROR_INIT;
    const struct delta_class_id id = {"thing"};
    struct harness_scratch scratch;
    (void)state;

    harness_scratch_make(&scratch);
    assert_status(learner_samples_folder(&set, scratch.path, &id, 32, 32, 0, &report, &err),
                  DELTA_FORMAT);
    assert_non_null(strstr(err.text, "no PNG or JPEG"));
    put(&scratch, "x.png", (struct file){NULL, 0});
    assert_status(learner_samples_folder(&set, scratch.path, &id, 32, 32, 0, &report, &err),
                  DELTA_FORMAT);
    assert_non_null(strstr(err.text, "'x.png': image is empty"));
    assert_status(learner_samples_folder(&set, "/no/such/folder", &id, 32, 32, 0, &report, &err),
                  DELTA_NOT_FOUND);
    harness_scratch_remove(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_png_pixels_survive),
        cmocka_unit_test(image_grey_alpha_palette_become_rgb),
        cmocka_unit_test(image_truncation_is_rejected),
        cmocka_unit_test(image_damage_is_survived),
        cmocka_unit_test(image_huge_declared_size_is_refused),
        cmocka_unit_test(image_cmyk_names_the_remedy),
        cmocka_unit_test(image_fit_averages_and_crops),
        cmocka_unit_test(folder_reads_what_it_can_and_reports),
        cmocka_unit_test(folder_without_images_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
