/* What the load generator and the C peer share: buffers, RFC 6455 frames, the opening handshake.
 *
 * Rules: loopback benchmarks only. Frames up to 1 MiB, no fragmentation (neither side of a benchmark sends any), no
 * allocation per message once buffers have grown to their working size.
 */
#ifndef GLASSBRIDGE_BENCH_WS_H
#define GLASSBRIDGE_BENCH_WS_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    char *data;
    size_t start, end, room;
} buffer;

static inline void buffer_reserve(buffer *b, size_t more)
{
    if (b->start == b->end) b->start = b->end = 0;
    if (b->end + more <= b->room) return;
    if (b->start) {
        memmove(b->data, b->data + b->start, b->end - b->start);
        b->end -= b->start;
        b->start = 0;
    }
    if (b->end + more <= b->room) return;
    size_t room = b->room ? b->room : 4096;
    while (room < b->end + more) room *= 2;
    b->data = realloc(b->data, room);
    if (!b->data) abort();
    b->room = room;
}

static inline void buffer_append(buffer *b, const void *data, size_t size)
{
    buffer_reserve(b, size);
    memcpy(b->data + b->end, data, size);
    b->end += size;
}

static inline size_t buffer_size(const buffer *b) { return b->end - b->start; }

static inline double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
           ((double)u.ru_utime.tv_usec + (double)u.ru_stime.tv_usec) * 1e-6;
}

static inline void set_socket(int fd)
{
    int one = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

enum { OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

/* Header of a frame: returns its length (2..14 bytes) in `head`. */
static inline size_t frame_head(unsigned char *head, int op, size_t size, int masked)
{
    size_t n = 2;
    head[0] = (unsigned char)(0x80 | op);
    if (size < 126) {
        head[1] = (unsigned char)size;
    } else if (size < 65536) {
        head[1] = 126;
        head[2] = (unsigned char)(size >> 8);
        head[3] = (unsigned char)size;
        n = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (unsigned char)((uint64_t)size >> (56 - 8 * i));
        n = 10;
    }
    if (masked) {
        head[1] |= 0x80;
        /* A constant key is legal on loopback between programs that we wrote; it still costs the server its unmasking. */
        memcpy(head + n, "\x37\xfa\x21\x3d", 4);
        n += 4;
    }
    return n;
}

static inline void apply_mask(char *data, size_t size)
{
    static const unsigned char key[8] = {0x37, 0xfa, 0x21, 0x3d, 0x37, 0xfa, 0x21, 0x3d};
    uint64_t wide;
    memcpy(&wide, key, 8);
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t v;
        memcpy(&v, data + i, 8);
        v ^= wide;
        memcpy(data + i, &v, 8);
    }
    for (; i < size; i++) data[i] ^= (char)key[i & 3];
}

static inline void frame_append(buffer *out, int op, const char *data, size_t size, int masked)
{
    unsigned char head[14];
    size_t n = frame_head(head, op, size, masked);
    buffer_reserve(out, n + size);
    memcpy(out->data + out->end, head, n);
    memcpy(out->data + out->end + n, data, size);
    if (masked) apply_mask(out->data + out->end + n, size);
    out->end += n + size;
}

/* Next complete frame at the start of `in`: 1 and its parts, 0 if more bytes are needed, -1 on nonsense. A masked
 * payload is unmasked in place with the frame's own key. */
static inline int frame_next(buffer *in, int *op, char **payload, size_t *size)
{
    unsigned char *p = (unsigned char *)in->data + in->start;
    size_t have = buffer_size(in);
    if (have < 2) return 0;
    size_t n = 2, length = p[1] & 0x7f;
    int masked = p[1] & 0x80;
    if (length == 126) {
        if (have < 4) return 0;
        length = (size_t)p[2] << 8 | p[3];
        n = 4;
    } else if (length == 127) {
        if (have < 10) return 0;
        length = 0;
        for (int i = 0; i < 8; i++) length = length << 8 | p[2 + i];
        n = 10;
    }
    if (length > (1u << 20)) return -1;
    if (masked) n += 4;
    if (have < n + length) return 0;
    *op = p[0] & 15;
    *payload = (char *)p + n;
    *size = length;
    if (masked) {
        unsigned char key[8];
        memcpy(key, p + n - 4, 4);
        memcpy(key + 4, p + n - 4, 4);
        uint64_t wide;
        memcpy(&wide, key, 8);
        size_t i = 0;
        for (; i + 8 <= length; i += 8) {
            uint64_t v;
            memcpy(&v, *payload + i, 8);
            v ^= wide;
            memcpy(*payload + i, &v, 8);
        }
        for (; i < length; i++) (*payload)[i] ^= (char)key[i & 3];
    }
    in->start += n + length;
    return 1;
}

#endif
