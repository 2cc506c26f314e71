/* Products of packed matrices from stdin in a build of kernel.c; test_other_builds.py compares what it writes.
 *
 * A record: int32 build, format, rows, columns, groups; int64 bytes of each array; the arrays; x. Written: float32 y,
 * sigmoid(y) and tanh(y). */
#include "kernel.c"

#include <stdio.h>
#include <stdlib.h>

enum { ARRAYS = 7 };

static void *bytes(size_t size) {
    void *memory = calloc(1, size + 4096);
    if (!memory) exit(2);
    return memory;
}

static int32_t record(void) {
    int32_t head[5];
    int64_t sizes[ARRAYS];
    void *arrays[ARRAYS];
    if (fread(head, sizeof head, 1, stdin) != 1) return 0;
    if (fread(sizes, sizeof sizes, 1, stdin) != 1) exit(2);
    for (int k = 0; k < ARRAYS; k++) {
        arrays[k] = sizes[k] ? bytes((size_t)sizes[k]) : NULL;
        if (sizes[k] && fread(arrays[k], (size_t)sizes[k], 1, stdin) != 1) exit(2);
    }
    int rows = head[2], columns = head[3];
    float *x = bytes(sizeof *x * (size_t)columns), *y = bytes(3 * sizeof *y * (size_t)rows);
    if (fread(x, sizeof *x, (size_t)columns, stdin) != (size_t)columns) exit(2);
    hp_matrix m = {head[1],   rows,      columns,   head[4],   arrays[0], arrays[1],
                   arrays[2], arrays[3], arrays[4], arrays[5], arrays[6]};
    int64_t plane = (columns + 2 * PAD) / 64 * 64 + 64;
    hp_work w = {bytes(4 * (size_t)plane), bytes((size_t)plane), bytes((size_t)plane), bytes(4 * (size_t)plane),
                 bytes((size_t)plane), plane, bytes(4 * (size_t)rows), bytes(4 * (size_t)rows)};
    hp_product(head[0], &m, &w, x, y);
    for (int i = 0; i < rows; i++) {
        y[rows + i] = sigmoid(y[i]);
        y[2 * rows + i] = tangent(y[i]);
    }
    fwrite(y, sizeof *y, 3 * (size_t)rows, stdout);
    return 1;
}

int main(void) {
    while (record()) {}
    return 0;
}
