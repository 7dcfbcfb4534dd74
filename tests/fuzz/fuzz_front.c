/* Headers without their payloads: what `inspect --header` and apply from file to file read. */
#include <stdlib.h>

#include "delta/delta.h"
#include "fuzz.h"
#include "outline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct delta_front front;
    struct delta_outline outline;
    struct delta_reader reader;

    if (delta_front_read(&front, fuzz_file(data, size, 0), NULL))
        return 0;
    if (!delta_outline_init(&outline, &front, NULL)) {
        for (size_t i = 0; i < outline.model.tensor_count; i++)
            if (outline.data_at[i] > size ||
                outline.model.tensors[i].count * sizeof(float) > size - outline.data_at[i])
                abort();
        delta_outline_release(&outline);
    }
    if (!delta_reader_init_front(&reader, &front, NULL)) {
        for (size_t i = 0; i < reader.entry_count; i++)
            if (reader.entries[i].offset + reader.entries[i].bytes > size - reader.payload_at)
                abort();
        delta_reader_release(&reader);
    }
    delta_front_release(&front);
    return 0;
}
