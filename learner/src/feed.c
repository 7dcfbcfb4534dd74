#include "feed.h"

#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "net_device.h"
#include "sources.h"

/* Room for so many images on the device. */
static bool place(struct learner_feed *feed, size_t images)
{
    const size_t bytes = images * learner_samples_image_bytes(feed->from);

    feed->pixels = learner_net_block(feed->net, bytes / sizeof(float) + 1);
    return feed->pixels != NULL;
}

static void place_batch(struct learner_feed *feed)
{
    struct learner_device *device = feed->net->device;
    const size_t batch = feed->net->batch;

    feed->packed =
        device->ops->remote->stage(device, batch * learner_samples_image_bytes(feed->from));
    if (feed->packed)
        place(feed, batch);
}

void learner_feed_init(struct learner_feed *feed, struct learner_net *net,
                       const struct learner_samples *samples, const struct delta_arch *arch,
                       bool again)
{
    const size_t channels = samples->channels;

    *feed = (struct learner_feed){.net = net, .from = samples, .arch = arch};
    if (!net->device->ops->remote || !samples->count || channels > 4)
        return;
    feed->views = delta_calloc(net->batch, sizeof *feed->views);
    feed->table = delta_calloc(256 * channels, sizeof *feed->table);
    if (!feed->views || !feed->table)
        return;
    for (uint32_t c = 0; c < channels; c++)
        learner_samples_table(feed->table + 256 * c, arch, c);
    feed->whole = again && place(feed, samples->count);
    if (feed->whole)
        learner_device_upload(net->device, feed->pixels, samples->pixels,
                              samples->count * learner_samples_image_bytes(samples));
    else
        place_batch(feed);
}

void learner_feed_release(struct learner_feed *feed)
{
    if (!feed->net)
        return;
    struct learner_device *device = feed->net->device;
    learner_net_block_free(feed->net, feed->pixels);
    if (feed->packed)
        device->ops->remote->unstage(device, feed->packed);
    free(feed->views);
    free(feed->table);
    *feed = (struct learner_feed){.net = NULL};
}

#define AT_ONCE 256

static void load_here(struct learner_feed *feed, const uint32_t *index, size_t n)
{
    float *input = learner_net_input(feed->net);
    const size_t image = learner_samples_image_bytes(feed->from), count = feed->from->count;
    uint32_t images[AT_ONCE];
    uint8_t mirror[AT_ONCE];

    for (size_t at = 0; at < n; at += AT_ONCE) {
        const size_t some = n - at < AT_ONCE ? n - at : AT_ONCE;
        for (size_t i = 0; i < some; i++) {
            mirror[i] = index[at + i] >= count;
            images[i] = (uint32_t)(index[at + i] % count);
        }
        learner_samples_batch(input + at * image, feed->from, feed->arch, images, some, mirror);
    }
}

void learner_feed_load_views(struct learner_feed *feed, const struct learner_load *load)
{
    struct learner_load whole = *load;

    whole.pixels = (const uint8_t *)feed->pixels;
    whole.table = feed->table;
    learner_net_load(feed->net, &whole);
}

void learner_feed_load(struct learner_feed *feed, const uint32_t *index, size_t n)
{
    const size_t image = learner_samples_image_bytes(feed->from), count = feed->from->count;

    if (!feed->pixels) {
        load_here(feed, index, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const uint32_t at = (uint32_t)(index[i] % count);
        feed->views[i] = (struct learner_view){.index = feed->whole ? at : (uint32_t)i,
                                               .mirror = index[i] >= count};
        if (!feed->whole)
            memcpy(feed->packed + i * image, feed->from->pixels + at * image, image);
    }
    if (!feed->whole)
        learner_device_upload(feed->net->device, feed->pixels, feed->packed, n * image);
    learner_feed_load_views(feed, &(struct learner_load){.views = feed->views, .n = n, .share = 1});
}
