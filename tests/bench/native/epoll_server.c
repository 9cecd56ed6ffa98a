/* The limit: the least that a program can do to serve the same sessions, one send() per receiver.
 *
 * Rules: one thread, epoll, no checks of tokens or keys, no permissions, no states: whatever the product does beyond this
 * is what the product costs. Speaks just enough of the wire for the load generator: acks, subscriptions by user and
 * package, events wrapped once and sent to each subscriber, displays forwarded, ping answered.
 */
#include "ws.h"

#include <signal.h>

typedef struct session session;

typedef struct conn {
    int fd, glasses, open, subscribed_events, subscribed_audio, armed;
    session *session;
    buffer in, out;
} conn;

struct session {
    char user[256];
    conn *glasses;
    conn **apps;
    int count, room;
    session *next;
};

#define BUCKETS 65536
static session *table[BUCKETS];
static int ep;

static session *session_of(const char *user, size_t n)
{
    unsigned h = 2166136261u;
    if (n > 255) n = 255;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)user[i]) * 16777619u;
    session **at = &table[h % BUCKETS];
    for (; *at; at = &(*at)->next)
        if (!strncmp((*at)->user, user, n) && !(*at)->user[n]) return *at;
    *at = calloc(1, sizeof **at);
    memcpy((*at)->user, user, n);
    return *at;
}

static void shut(conn *c)
{
    if (!c->open) return;
    c->open = 0;
    close(c->fd);
    session *s = c->session;
    if (!s) return;
    if (s->glasses == c) s->glasses = NULL;
    for (int i = 0; i < s->count; i++)
        if (s->apps[i] == c) {
            s->apps[i] = s->apps[--s->count];
            break;
        }
}

static void want_write(conn *c, int on)
{
    if (c->armed == on) return;
    struct epoll_event e = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
    c->armed = on;
}

static void flush(conn *c)
{
    while (c->open && buffer_size(&c->out)) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, buffer_size(&c->out), MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                want_write(c, 1);
                return;
            }
            shut(c);
            return;
        }
        c->out.start += (size_t)n;
    }
    if (c->open) want_write(c, 0);
}

static void send_bytes(conn *c, const char *data, size_t size)
{
    if (!c->open) return;
    if (!buffer_size(&c->out)) {
        ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
        if (n == (ssize_t)size) return;
        if (n < 0 && errno != EAGAIN) {
            shut(c);
            return;
        }
        if (n > 0) data += n, size -= (size_t)n;
    }
    buffer_append(&c->out, data, size);
    want_write(c, 1);
}

static void say(conn *c, const char *text)
{
    static buffer b;
    b.start = b.end = 0;
    frame_append(&b, OP_TEXT, text, strlen(text), 0);
    send_bytes(c, b.data, b.end);
}

static void on_frame(conn *c, int op, char *p, size_t n)
{
    static buffer b;
    session *s = c->session;
    if (op == OP_PING) {
        b.start = b.end = 0;
        frame_append(&b, OP_PONG, p, n, 0);
        send_bytes(c, b.data, b.end);
        return;
    }
    if (op == OP_CLOSE) {
        shut(c);
        return;
    }
    if (c->glasses) {
        b.start = b.end = 0;
        if (op == OP_BINARY) {
            frame_append(&b, OP_BINARY, p, n, 0);
        } else {
            if (memmem(p, n < 64 ? n : 64, "\"ping\"", 6)) {
                say(c, "{\"type\":\"pong\"}");
                return;
            }
            static char wrapped[1 << 20];
            int head = snprintf(wrapped, 1024,
                                "{\"type\":\"data_stream\",\"sessionId\":\"%s\",\"streamType\":\"button_press\","
                                "\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"data\":", s->user);
            if ((size_t)head + n + 1 > sizeof wrapped) return;
            memcpy(wrapped + head, p, n);
            wrapped[(size_t)head + n] = '}';
            frame_append(&b, OP_TEXT, wrapped, (size_t)head + n + 1, 0);
        }
        for (int i = 0; i < s->count; i++)
            if (op == OP_BINARY ? s->apps[i]->subscribed_audio : s->apps[i]->subscribed_events)
                send_bytes(s->apps[i], b.data, b.end);
        return;
    }
    size_t look = n < 64 ? n : 64;
    if (memmem(p, look, "display_event", 13)) {
        if (s && s->glasses) {
            b.start = b.end = 0;
            frame_append(&b, OP_TEXT, p, n, 0);
            send_bytes(s->glasses, b.data, b.end);
        }
    } else if (memmem(p, look, "tpa_connection_init", 19)) {
        char *id = memmem(p, n, "\"sessionId\":\"", 13);
        char *end = id ? memmem(id, n - (size_t)(id - p), "-com.bench", 10) : NULL;
        if (!end) return;
        s = c->session = session_of(id + 13, (size_t)(end - id - 13));
        if (s->count == s->room) s->apps = realloc(s->apps, sizeof *s->apps * (size_t)(s->room = s->room ? s->room * 2 : 4));
        s->apps[s->count++] = c;
        say(c, "{\"type\":\"tpa_connection_ack\",\"settings\":[]}");
    } else if (memmem(p, look, "subscription_update", 19)) {
        c->subscribed_events = memmem(p, n, "button_press", 12) != NULL;
        c->subscribed_audio = memmem(p, n, "audio_chunk", 11) != NULL;
    }
}

static void on_head(conn *c)
{
    char *p = c->in.data + c->in.start;
    char *end = memmem(p, buffer_size(&c->in), "\r\n\r\n", 4);
    if (!end) return;
    size_t head = (size_t)(end - p);
    char *user = memmem(p, head, "&u=", 3);
    if (user) {
        char *stop = memchr(user + 3, ' ', head - (size_t)(user + 3 - p));
        c->glasses = 1;
        c->session = session_of(user + 3, (size_t)(stop - user - 3));
        c->session->glasses = c;
    }
    c->in.start += head + 4;
    c->open = 2;
    /* The generator's key is constant, so is the answer. */
    static const char reply[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    send_bytes(c, reply, sizeof reply - 1);
    if (c->glasses) say(c, "{\"type\":\"connection_ack\"}");
}

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 0, one = 1;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    if (bind(server, (struct sockaddr *)&at, size) < 0 || listen(server, 4096) < 0) {
        perror("epoll_server");
        return 1;
    }
    getsockname(server, (struct sockaddr *)&at, &size);
    printf("{\"event\":\"ready\",\"port\":%d}\n", ntohs(at.sin_port));
    fflush(stdout);
    ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(ep, EPOLL_CTL_ADD, server, &e);
    static struct epoll_event events[512];
    static conn *dead[512];
    for (;;) {
        int n = epoll_wait(ep, events, 512, -1), gone = 0;
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (!c) {
                int fd;
                while ((fd = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    set_socket(fd);
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    c->open = 1;
                    struct epoll_event added = {.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &added);
                }
                continue;
            }
            if (c->open && events[i].events & EPOLLOUT) flush(c);
            if (c->open && events[i].events & ~EPOLLOUT) {
                buffer_reserve(&c->in, 16384);
                ssize_t got = recv(c->fd, c->in.data + c->in.end, c->in.room - c->in.end, 0);
                if (got == 0 || (got < 0 && errno != EAGAIN)) shut(c);
                if (got > 0) {
                    c->in.end += (size_t)got;
                    if (c->open == 1) on_head(c);
                    int op;
                    char *payload;
                    size_t length;
                    while (c->open == 2 && frame_next(&c->in, &op, &payload, &length) == 1) on_frame(c, op, payload, length);
                    if (c->open && !buffer_size(&c->in)) {
                        free(c->in.data); /* an idle connection keeps no buffer */
                        memset(&c->in, 0, sizeof c->in);
                    }
                }
            }
            if (!c->open) dead[gone++] = c;
        }
        for (int i = 0; i < gone; i++) {
            free(dead[i]->in.data);
            free(dead[i]->out.data);
            free(dead[i]);
        }
    }
}
