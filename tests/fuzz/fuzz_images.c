/* PNG and JPEG: the glue around libpng and libjpeg, and the resizing behind it. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "images.h"

#define PIXELS_MAX ((size_t)1 << 18) /* larger ones cost time and show nothing new */

static void fit(const struct learner_image *image, uint32_t height, uint32_t width)
{
    uint8_t *out = malloc((size_t)3 * height * width);

    if (!out || learner_image_fit(out, height, width, image, NULL))
        abort();
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct learner_image image;

    if (learner_image_decode(&image, delta_bytes(data, size), NULL))
        return 0;
    const size_t pixels = (size_t)image.width * image.height;
    if (image.width == 0 || image.height == 0 || image.width > LEARNER_IMAGE_MAX_SIDE ||
        image.height > LEARNER_IMAGE_MAX_SIDE || 3 * pixels > LEARNER_IMAGE_MAX_DECODED)
        abort();
    if (pixels <= PIXELS_MAX) {
        fit(&image, 32, 32);
        fit(&image, 7, 50);
        fit(&image, image.height, image.width);
    }
    learner_image_release(&image);
    return 0;
}
