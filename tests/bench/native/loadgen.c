/* The load: glasses and apps that speak the MentraOS wire to any server under test, counting what arrives.
 *
 * Rules: one thread, epoll, pinned beside the server by the caller. It says what CPU time it took itself, so that a
 * reader can see whether it was the limit. With --webhook it also is the app server: a POST opens the app's socket, as a
 * real app does. Traffic goes to 127.0.0.1 only, and only while a command runs.
 *
 *   loadgen --port P --mode fanout|audio|reverse|echo|paced|mic|probe|idle|sockets|accept --sessions S --apps A --size B
 *           [--window W] [--rate R] [--tokens FILE] [--first N] [--key K] [--webhook PORT] [--pid SERVER]
 *
 * Prints {"event":"ready"} when all connections stand, then obeys lines on stdin, answering each with one JSON line:
 *   run SECONDS     load for that time after a short warm-up; counts, latency, CPU seconds of itself and of --pid
 *   storm SECONDS   cut every connection at once and bring all of them back spread over that time
 *   quit            (or the end of stdin) leave
 * `paced` sends R events a second whatever comes back; `probe` R pings a second, one at a time per session; both give
 * latencies; `mic` is `paced` with sound. --first: the first user of the token file that is ours. --app-port: apps connect
 * there, not where the glasses do; --then-port: after a storm everybody connects there.
 * `sockets` opens S bare app sockets that have not said who they are; `accept` connects and leaves while it runs.
 */
#include "ws.h"

#include <dirent.h>
#include <signal.h>

enum kind { GLASSES, APP, WEBHOOK_LISTENER, WEBHOOK };
enum phase { CONNECTING, UPGRADING, GREETING, READY, CLOSED };

typedef struct conn {
    int fd;
    enum kind kind;
    enum phase phase;
    int session, app;
    int writable_armed;
    int back; /* reopened in the present storm */
    buffer in, out;
} conn;

static struct {
    int port, app_port, then_port, sessions, apps, window, webhook, pid, first;
    size_t size;
    double rate;
    const char *mode, *tokens, *key;
} opt = {.sessions = 1, .apps = 1, .window = 8, .size = 200, .rate = 1000, .mode = "fanout",
         .key = "bench-key"};

static int ep;
static conn **glasses, **apps;
static char **users, **tokens;
static char (*app_paths)[64]; /* of each session, as its webhook gave it: it may say where the session is */
static long ready_glasses, ready_apps, opening;
static unsigned long long delivered, sent, bytes_in, failures;
static int *apps_asked; /* of each session */
static long all_apps_asked;
static double *probe_sent; /* when the open ping of a session went out; 0 = none */
static unsigned long long *session_sent, *session_delivered;
static char *event_frame;
static size_t event_frame_size, event_payload_size;
static int measuring;
static unsigned long long webhooks;

static double *latencies;
static size_t latency_count, latency_room;

static void die(const char *what)
{
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Events at a given rate that carry the time of their sending: text for `paced`, sound for `mic`. */
static int stamped(void)
{
    return !strcmp(opt.mode, "paced") || !strcmp(opt.mode, "mic");
}

/* CPU seconds of all threads of the server, from the scheduler's own count in nanoseconds. */
static double server_cpu(void)
{
    char path[64];
    double total = 0;
    snprintf(path, sizeof path, "/proc/%d/task", opt.pid);
    DIR *d = opt.pid ? opendir(path) : NULL;
    if (!d) return 0;
    struct dirent *e;
    while ((e = readdir(d))) {
        char file[400];
        unsigned long long ns;
        snprintf(file, sizeof file, "/proc/%d/task/%s/schedstat", opt.pid, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(file, "r");
        if (!f) continue;
        if (fscanf(f, "%llu", &ns) == 1) total += (double)ns * 1e-9;
        fclose(f);
    }
    closedir(d);
    return total;
}

static void arm(conn *c, int writable)
{
    if (c->writable_armed == writable) return;
    struct epoll_event e = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
    c->writable_armed = writable;
}

static void shut(conn *c)
{
    if (c->phase == CLOSED) return;
    if (c->phase != READY && (c->kind == GLASSES || c->kind == APP)) opening--;
    if (c->phase == READY && c->kind == GLASSES) ready_glasses--;
    if (c->phase == READY && c->kind == APP) ready_apps--;
    if (c->kind != WEBHOOK) failures++;
    c->phase = CLOSED;
    close(c->fd);
}

static void flush(conn *c)
{
    while (buffer_size(&c->out)) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, buffer_size(&c->out), MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                arm(c, 1);
                return;
            }
            shut(c);
            return;
        }
        c->out.start += (size_t)n;
    }
    arm(c, 0);
}

static void say(conn *c, const char *text)
{
    frame_append(&c->out, OP_TEXT, text, strlen(text), 1);
    flush(c);
}

static conn *open_socket(enum kind kind, int session, int app)
{
    conn *c = calloc(1, sizeof *c);
    c->kind = kind;
    c->session = session;
    c->app = app;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    set_socket(c->fd);
    int port = kind == APP && opt.app_port ? opt.app_port : opt.port;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) die("connect");
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    c->writable_armed = 1;
    opening++;
    char text[8192];
    int n = snprintf(text, sizeof text,
                     "GET %s%s%s%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                     kind == GLASSES ? "/glasses-ws?token=" : app_paths[session][0] ? app_paths[session] : "/app-ws",
                     kind == GLASSES ? tokens[session] : "",
                     kind == GLASSES ? "&u=" : "", kind == GLASSES ? users[session] : "", "", opt.port);
    buffer_append(&c->out, text, (size_t)n);
    return c;
}

static int by_bench_name(const char *text, const char *prefix)
{
    const char *at = strstr(text, prefix);
    return at ? atoi(at + strlen(prefix)) : -1;
}

static void greet_app(conn *c)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"type\":\"tpa_connection_init\",\"sessionId\":\"%s-com.bench.a%d\",\"packageName\":\"com.bench.a%d\","
             "\"apiKey\":\"%s\",\"timestamp\":\"2026-01-01T00:00:00.000Z\"}",
             users[c->session], c->app, c->app, opt.key);
    say(c, text);
}

static void add_latency(double seconds)
{
    if (latency_count == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 65536;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
    }
    latencies[latency_count++] = seconds;
}

static void start_next_app(int session)
{
    char text[256];
    if (apps_asked[session] == opt.apps) return;
    all_apps_asked++;
    snprintf(text, sizeof text, "{\"type\":\"start_app\",\"packageName\":\"com.bench.a%d\"}", apps_asked[session]++);
    say(glasses[session], text);
}

static void on_message(conn *c, int op, char *p, size_t n)
{
    if (op == OP_PING) {
        frame_append(&c->out, OP_PONG, p, n, 1);
        flush(c);
        return;
    }
    if (op == OP_CLOSE) {
        shut(c);
        return;
    }
    if (c->phase == READY) {
        size_t look = n < 160 ? n : 160;
        int counts;
        if (c->kind == APP)
            counts = op == OP_BINARY || memmem(p, look, "data_stream", 11) != NULL;
        else
            /* Only what this mode asked for: a boot screen is no delivery, and would widen the window of a server that
             * draws one. */
            counts = memmem(p, look, !strcmp(opt.mode, "reverse") ? "display_event" : "\"pong\"",
                            !strcmp(opt.mode, "reverse") ? 13 : 6) != NULL &&
                     strcmp(opt.mode, "fanout") != 0 && strcmp(opt.mode, "audio") != 0 && !stamped();
        if (!counts) return;
        session_delivered[c->session]++;
        int probing = probe_sent[c->session] > 0;
        if (measuring) {
            delivered++;
            bytes_in += n;
            if (stamped()) {
                char *at = memmem(p, n, "@@", 2);
                if (at) add_latency(now_s() - strtod(at + 2, NULL));
            } else if (probe_sent[c->session] > 0) {
                add_latency(now_s() - probe_sent[c->session]);
            }
        }
        if (probing) probe_sent[c->session] = 0;
        return;
    }
    if (c->phase != GREETING || op != OP_TEXT) return;
    size_t look = n < 4096 ? n : 4096;
    if (c->kind == GLASSES && memmem(p, look, "connection_ack", 14)) {
        c->phase = READY;
        opening--;
        ready_glasses++;
        if (opt.webhook && !c->back)
            /* Not all at once: what arrives before the cloud has read the user's data is bounded to 64 frames. */
            for (int a = 0; a < 32; a++) start_next_app(c->session);
    } else if (c->kind == APP && memmem(p, look, "tpa_connection_ack", 18)) {
        char text[1024];
        snprintf(text, sizeof text,
                 "{\"type\":\"subscription_update\",\"packageName\":\"com.bench.a%d\",\"subscriptions\":[\"%s\"],"
                 "\"sessionId\":\"%s-com.bench.a%d\"}",
                 c->app, !strcmp(opt.mode, "audio") || !strcmp(opt.mode, "mic") ? "audio_chunk" : "button_press", users[c->session], c->app);
        say(c, text);
        c->phase = READY;
        opening--;
        ready_apps++;
        if (opt.webhook && !c->back) start_next_app(c->session);
    }
}

static void on_upgrade(conn *c)
{
    char *p = c->in.data + c->in.start;
    size_t n = buffer_size(&c->in);
    char *end = memmem(p, n, "\r\n\r\n", 4);
    if (!end) return;
    if (n < 12 || memcmp(p + 9, "101", 3) != 0) {
        fprintf(stderr, "loadgen: upgrade refused: %.*s\n", n < 200 ? (int)n : 200, p);
        shut(c);
        return;
    }
    c->in.start += (size_t)(end - p) + 4;
    c->phase = GREETING;
    if (c->kind != APP) return;
    if (!strcmp(opt.mode, "sockets")) {
        c->phase = READY;
        opening--;
        ready_apps++;
    } else {
        greet_app(c);
    }
}

static void on_webhook(conn *c)
{
    for (;;) {
        char *p = c->in.data + c->in.start;
        size_t n = buffer_size(&c->in);
        char *end = n ? memmem(p, n, "\r\n\r\n", 4) : NULL;
        if (!end) return;
        size_t head = (size_t)(end - p) + 4, body = 0;
        for (char *line = p; line < end; line++)
            if (!strncasecmp(line, "content-length:", 15)) body = (size_t)atoi(line + 15);
        if (n < head + body) return;
        char text[4096];
        size_t keep = body < sizeof text - 1 ? body : sizeof text - 1;
        memcpy(text, p + head, keep);
        text[keep] = 0;
        c->in.start += head + body;
        if (strstr(text, "session_request")) {
            webhooks++;
            int session = by_bench_name(text, "\"userId\":\"bench") - opt.first;
            int app = by_bench_name(text, "-com.bench.a");
            if (session >= 0 && session < opt.sessions && app >= 0 && app < opt.apps) {
                const char *url = strstr(text, "\"mentraOSWebsocketUrl\":\"ws://");
                const char *path = url ? strchr(url + 29, '/') : NULL;
                if (path) snprintf(app_paths[session], sizeof *app_paths, "%.*s", (int)strcspn(path, "\""), path);
                conn **at = &apps[session * opt.apps + app];
                if (!*at || (*at)->phase == CLOSED) *at = open_socket(APP, session, app);
            }
        }
        static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
                                    "{\"status\":\"success\"}";
        buffer_append(&c->out, reply, sizeof reply - 1);
        flush(c);
        if (c->phase == CLOSED) return;
    }
}

static void on_readable(conn *c)
{
    if (c->kind == WEBHOOK_LISTENER) {
        int fd;
        while ((fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
            conn *w = calloc(1, sizeof *w);
            w->fd = fd;
            w->kind = WEBHOOK;
            w->phase = READY;
            struct epoll_event e = {.events = EPOLLIN, .data.ptr = w};
            epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
        }
        return;
    }
    for (;;) {
        buffer_reserve(&c->in, 65536);
        ssize_t n = recv(c->fd, c->in.data + c->in.end, c->in.room - c->in.end, 0);
        if (n < 0) {
            if (errno == EAGAIN) break;
            shut(c);
            return;
        }
        if (n == 0) {
            shut(c);
            return;
        }
        c->in.end += (size_t)n;
        if (c->kind == WEBHOOK) {
            on_webhook(c);
        } else {
            if (c->phase == UPGRADING) on_upgrade(c);
            int op;
            char *payload;
            size_t size;
            while (c->phase > UPGRADING && c->phase < CLOSED && frame_next(&c->in, &op, &payload, &size) == 1)
                on_message(c, op, payload, size);
        }
        if (c->phase == CLOSED) return;
        if ((size_t)n < 32768) break;
    }
}

static void poll_once(int timeout_ms)
{
    static struct epoll_event events[512];
    int n = epoll_wait(ep, events, 512, timeout_ms);
    for (int i = 0; i < n; i++) {
        conn *c = events[i].data.ptr;
        if (c->phase == CLOSED) continue;
        if (events[i].events & EPOLLOUT) {
            if (c->phase == CONNECTING) {
                int error = 0;
                socklen_t size = sizeof error;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
                if (error) {
                    shut(c);
                    continue;
                }
                c->phase = UPGRADING;
            }
            flush(c);
        }
        if (c->phase != CLOSED && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(c);
    }
}

static void make_event(void)
{
    buffer b = {0};
    int op = OP_TEXT;
    char *payload = malloc(opt.size + 512);
    size_t n;
    if (!strcmp(opt.mode, "audio")) {
        op = OP_BINARY;
        n = opt.size;
        for (size_t i = 0; i < n; i++) payload[i] = (char)(i * 7);
    } else if (!strcmp(opt.mode, "mic")) {
        op = OP_BINARY; /* PCM reaches apps as it is, so that it can carry the time, too */
        n = opt.size;
        memset(payload, ' ', n);
        memcpy(payload, "@@00000000000.00000000", 22);
    } else if (!strcmp(opt.mode, "reverse")) {
        /* forceDisplay: the product throttles a view to 3/s otherwise; with it every update is promised to arrive. */
        static const char head[] = "{\"type\":\"display_event\",\"sessionId\":\"\",\"packageName\":\"com.bench.a0\",\"view\":"
                                   "\"main\",\"forceDisplay\":true,\"layout\":{\"layoutType\":\"text_wall\",\"text\":\"";
        n = sizeof head - 1;
        memcpy(payload, head, n);
        while (n + 3 < opt.size) payload[n++] = 'x';
        memcpy(payload + n, "\"}}", 3);
        n += 3;
    } else if (!strcmp(opt.mode, "echo") || !strcmp(opt.mode, "probe")) {
        n = (size_t)sprintf(payload, "{\"type\":\"ping\"}");
    } else {
        /* The padding is a member that no server knows. "@@" and 20 characters are the send time in paced mode. */
        static const char head[] = "{\"type\":\"button_press\",\"pressType\":\"short\",\"timestamp\":1767225600000,\"buttonId\":"
                                   "\"main\",\"padding\":\"@@00000000000.00000000";
        n = sizeof head - 1;
        memcpy(payload, head, n);
        while (n + 2 < opt.size) payload[n++] = 'x';
        memcpy(payload + n, "\"}", 2);
        n += 2;
    }
    frame_append(&b, op, payload, n, 1);
    event_frame = b.data;
    event_frame_size = b.end;
    event_payload_size = n;
    free(payload);
}

static void send_event(int session)
{
    conn *c = !strcmp(opt.mode, "reverse") ? apps[session * opt.apps] : glasses[session];
    if (!c || c->phase != READY) return;
    if (!strcmp(opt.mode, "probe")) {
        if (probe_sent[session] > 0) return;
        probe_sent[session] = now_s();
    }
    if (stamped()) {
        buffer_reserve(&c->out, event_frame_size);
        char *at = c->out.data + c->out.end;
        memcpy(at, event_frame, event_frame_size);
        size_t head = event_frame_size - event_payload_size;
        apply_mask(at + head, event_payload_size);
        char *mark = memmem(at + head, event_payload_size, "@@", 2);
        char stamp[32];
        snprintf(stamp, sizeof stamp, "%020.8f", now_s());
        memcpy(mark + 2, stamp, 20);
        apply_mask(at + head, event_payload_size);
        c->out.end += event_frame_size;
    } else {
        buffer_append(&c->out, event_frame, event_frame_size);
    }
    flush(c);
    session_sent[session]++;
    if (measuring) sent++;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Deliveries that one message of this mode causes. */
static unsigned window_fan(void)
{
    return !strcmp(opt.mode, "reverse") || !strcmp(opt.mode, "echo") ? 1u : (unsigned)opt.apps;
}

static void run_for(double seconds)
{
    double end = now_s() + seconds;
    unsigned fan = window_fan();
    if (stamped() || !strcmp(opt.mode, "probe")) {
        double next = now_s(), step = 1.0 / opt.rate;
        int turn = 0;
        while (now_s() < end) {
            while (now_s() >= next) {
                send_event(turn++ % opt.sessions);
                next += step;
            }
            poll_once(0);
        }
        return;
    }
    while (now_s() < end) {
        for (int s = 0; s < opt.sessions; s++)
            while (session_sent[s] * fan < session_delivered[s] + (unsigned)opt.window * fan) {
                unsigned long long before = session_sent[s];
                send_event(s);
                if (session_sent[s] == before) break;
            }
        poll_once(5);
    }
}

static void read_tokens(void)
{
    users = calloc((size_t)opt.sessions, sizeof *users);
    app_paths = calloc((size_t)opt.sessions, sizeof *app_paths);
    tokens = calloc((size_t)opt.sessions, sizeof *tokens);
    FILE *f = opt.tokens ? fopen(opt.tokens, "r") : NULL;
    if (opt.tokens && !f) die(opt.tokens);
    for (int i = -opt.first; i < opt.sessions; i++) {
        char user[256], token[4096] = "none";
        snprintf(user, sizeof user, "bench%d@example.com", i + opt.first);
        if (f && fscanf(f, "%255s %4095s", user, token) != 2) {
            fprintf(stderr, "loadgen: %s has fewer than %d lines\n", opt.tokens, opt.first + opt.sessions);
            exit(2);
        }
        if (i < 0) continue;
        users[i] = strdup(user);
        tokens[i] = strdup(token);
    }
    if (f) fclose(f);
}

static void wait_until(long *count, long wanted, double within, const char *what)
{
    double end = now_s() + within;
    while (*count < wanted) {
        poll_once(20);
        if (now_s() > end) {
            fprintf(stderr, "loadgen: only %ld of %ld %s after %.0f s\n", *count, wanted, what, within);
            exit(1);
        }
    }
}

/* Wait for the apps; on a busy machine a start may fail for want of time, and the wearer presses again. */
static void bring_all_apps(void)
{
    double again = now_s() + 15, end = now_s() + 240;
    while (ready_apps < (long)opt.sessions * opt.apps && now_s() < end) {
        poll_once(20);
        if (!opt.webhook || now_s() < again) continue;
        again = now_s() + 15;
        long asked = 0;
        for (int i = 0; i < opt.sessions * opt.apps && asked < 64; i++) {
            if (apps[i] && apps[i]->phase != CLOSED) continue;
            char text[256];
            snprintf(text, sizeof text, "{\"type\":\"start_app\",\"packageName\":\"com.bench.a%d\"}", i % opt.apps);
            say(glasses[i / opt.apps], text);
            asked++;
        }
    }
    wait_until(&ready_apps, (long)opt.sessions * opt.apps, 0, "apps acknowledged");
}

static void listen_for_webhooks(void)
{
    conn *c = calloc(1, sizeof *c);
    c->kind = WEBHOOK_LISTENER;
    c->phase = READY;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int one = 1;
    setsockopt(c->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.webhook)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(c->fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(c->fd, 4096) < 0) die("webhook port");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}

static void measure(double seconds)
{
    /* What is still under way belongs to the last burst; counted in this one, it would widen the window. */
    double patience = now_s() + 0.2;
    for (int s = 0; s < opt.sessions && now_s() < patience;)
        if (session_delivered[s] >= session_sent[s] * window_fan())
            s++;
        else
            poll_once(1);
    /* Reach the steady state again: connections stood idle while other servers had their turn. */
    for (int s = 0; s < opt.sessions; s++) {
        /* A message that was lost or shed must not hold its place in the window for ever. */
        session_sent[s] = session_delivered[s] = 0;
        probe_sent[s] = 0;
    }
    if (!stamped() && strcmp(opt.mode, "probe") != 0) run_for(0.1);
    delivered = sent = bytes_in = 0;
    latency_count = 0;
    unsigned long long failed = failures;
    measuring = 1;
    double start = now_s(), cpu = cpu_s(), server = server_cpu();
    run_for(seconds);
    double wall = now_s() - start;
    server = server_cpu() - server;
    cpu = cpu_s() - cpu;
    measuring = 0;
    printf("{\"event\":\"done\",\"delivered\":%llu,\"sent\":%llu,\"bytes\":%llu,\"wall\":%.4f,\"generator_cpu\":%.5f,"
           "\"server_cpu\":%.6f,\"failures\":%llu",
           delivered, sent, bytes_in, wall, cpu, server, failures - failed);
    if (latency_count) {
        qsort(latencies, latency_count, sizeof *latencies, by_value);
        printf(",\"latency_ms\":{\"p50\":%.4f,\"p99\":%.4f,\"max\":%.4f,\"n\":%zu}", latencies[latency_count / 2] * 1e3,
               latencies[latency_count * 99 / 100] * 1e3, latencies[latency_count - 1] * 1e3, latency_count);
    }
    printf("}\n");
}

static void release(conn *c)
{
    free(c->in.data);
    free(c->out.data);
    free(c);
}

/* Connect, be acknowledged, leave, again: --window at a time, from the pool of users. */
static void accept_for(double seconds)
{
    unsigned long long done = 0, failed = failures;
    double start = now_s(), cpu = cpu_s(), server = server_cpu();
    int next = 0;
    while (now_s() < start + seconds) {
        for (int i = 0; i < opt.sessions && opening < opt.window; i++, next++) {
            int s = next % opt.sessions;
            if (glasses[s] && glasses[s]->phase != CLOSED) continue;
            if (glasses[s]) release(glasses[s]);
            glasses[s] = open_socket(GLASSES, s, 0);
        }
        poll_once(5);
        for (int s = 0; s < opt.sessions; s++)
            if (glasses[s] && glasses[s]->phase == READY) {
                done++;
                shut(glasses[s]);
                failures--;
            }
    }
    printf("{\"event\":\"done\",\"delivered\":%llu,\"sent\":%llu,\"bytes\":0,\"wall\":%.4f,\"generator_cpu\":%.5f,"
           "\"server_cpu\":%.6f,\"failures\":%llu}\n",
           done, done, now_s() - start, cpu_s() - cpu, server_cpu() - server, failures - failed);
}

/* All peers lose their path at once and come back in random-looking order, evenly spread over `seconds`. */
static void storm(double seconds)
{
    int per = 1 + opt.apps, total = opt.sessions * per;
    for (int s = 0; s < opt.sessions; s++) {
        shut(glasses[s]);
        for (int a = 0; a < opt.apps; a++) shut(apps[s * opt.apps + a]);
    }
    failures -= (unsigned long long)total;
    if (opt.then_port) {
        opt.port = opt.then_port;
        opt.app_port = 0;
    }
    unsigned long long failed = failures, posted = webhooks;
    long redialled = 0;
    double start = now_s(), server = server_cpu();
    for (int i = 0; i < total; i++) {
        while (now_s() < start + seconds * i / total) poll_once(0);
        int which = (int)((unsigned long long)i * 2654435761u % (unsigned)total);
        /* The multiplier is odd; with an even total a pair could repeat, so walk to the next one still closed. */
        for (;; which = (which + 1) % total) {
            conn **at = which % per ? &apps[which / per * opt.apps + which % per - 1] : &glasses[which / per];
            if ((*at)->phase != CLOSED || (*at)->back) continue;
            conn *old = *at;
            *at = open_socket(which % per ? APP : GLASSES, which / per, which % per ? which % per - 1 : 0);
            (*at)->back = 1;
            release(old);
            break;
        }
    }
    double give_up = now_s() + 60, again = now_s() + 1;
    while ((ready_glasses < opt.sessions || ready_apps < (long)opt.sessions * opt.apps) && now_s() < give_up) {
        poll_once(5);
        if (now_s() < again) continue;
        again = now_s() + 1; /* who was turned away dials again, as every client does */
        for (int which = 0; which < total && opening < 1000; which++) {
            conn **at = which % per ? &apps[which / per * opt.apps + which % per - 1] : &glasses[which / per];
            if ((*at)->phase != CLOSED) continue;
            conn *old = *at;
            *at = open_socket(which % per ? APP : GLASSES, which / per, which % per ? which % per - 1 : 0);
            (*at)->back = 1;
            release(old);
            redialled++;
        }
    }
    double took = now_s() - start;
    for (int s = 0; s < opt.sessions; s++) {
        glasses[s]->back = 0;
        for (int a = 0; a < opt.apps; a++) apps[s * opt.apps + a]->back = 0;
    }
    printf("{\"event\":\"done\",\"back\":%ld,\"of\":%d,\"took\":%.3f,\"server_cpu\":%.4f,\"failures\":%llu,\"webhooks\":%llu,"
           "\"redialled\":%ld}\n",
           ready_glasses + ready_apps, total, took, server_cpu() - server, failures - failed, webhooks - posted, redialled);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        i++;
        if (!strcmp(name, "--port")) opt.port = atoi(value);
        else if (!strcmp(name, "--app-port")) opt.app_port = atoi(value);
        else if (!strcmp(name, "--then-port")) opt.then_port = atoi(value);
        else if (!strcmp(name, "--mode")) opt.mode = value;
        else if (!strcmp(name, "--sessions")) opt.sessions = atoi(value);
        else if (!strcmp(name, "--apps")) opt.apps = atoi(value);
        else if (!strcmp(name, "--size")) opt.size = (size_t)atoi(value);
        else if (!strcmp(name, "--first")) opt.first = atoi(value);
        else if (!strcmp(name, "--pid")) opt.pid = atoi(value);
        else if (!strcmp(name, "--window")) opt.window = atoi(value);
        else if (!strcmp(name, "--rate")) opt.rate = atof(value);
        else if (!strcmp(name, "--tokens")) opt.tokens = value;
        else if (!strcmp(name, "--key")) opt.key = value;
        else if (!strcmp(name, "--webhook")) opt.webhook = atoi(value);
        else {
            fprintf(stderr, "loadgen: unknown option %s\n", name);
            return 2;
        }
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    double started = now_s();
    ep = epoll_create1(0);
    read_tokens();
    make_event();
    apps_asked = calloc((size_t)opt.sessions, sizeof *apps_asked);
    probe_sent = calloc((size_t)opt.sessions, sizeof *probe_sent);
    glasses = calloc((size_t)opt.sessions, sizeof *glasses);
    apps = calloc((size_t)opt.sessions * (size_t)(opt.apps ? opt.apps : 1), sizeof *apps);
    session_sent = calloc((size_t)opt.sessions, sizeof *session_sent);
    session_delivered = calloc((size_t)opt.sessions, sizeof *session_delivered);
    if (opt.webhook) listen_for_webhooks();

    if (!strcmp(opt.mode, "sockets")) {
        for (int s = 0; s < opt.sessions; s++) {
            apps[s] = open_socket(APP, s, 0);
            while (opening > 200) poll_once(20);
        }
        wait_until(&ready_apps, opt.sessions, 60, "sockets open");
    } else if (strcmp(opt.mode, "accept") != 0) {
        for (int s = 0; s < opt.sessions; s++) {
            glasses[s] = open_socket(GLASSES, s, 0);
            /* A webhook has nine seconds from when it is wanted: thousands wanted at once would wait for each other. */
            while (opening > 200 || all_apps_asked - ready_apps > 64) poll_once(20);
        }
        wait_until(&ready_glasses, opt.sessions, 60, "glasses acknowledged");
        if (!opt.webhook)
            for (int s = 0; s < opt.sessions; s++)
                for (int a = 0; a < opt.apps; a++) {
                    apps[s * opt.apps + a] = open_socket(APP, s, a);
                    while (opening > 200) poll_once(20);
                }
        bring_all_apps();
        double settle = now_s() + 0.3 + 0.001 * opt.apps * opt.sessions; /* the subscriptions that went out last */
        if (settle > now_s() + 2) settle = now_s() + 2;
        while (now_s() < settle) poll_once(20);
    }
    printf("{\"event\":\"ready\",\"took\":%.3f,\"webhooks\":%llu}\n", now_s() - started, webhooks);
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    char line[256];
    for (;;) {
        ssize_t n = read(0, line, sizeof line - 1);
        if (n < 0 && errno == EAGAIN) {
            poll_once(5);
            continue;
        }
        if (n <= 0 || !strncmp(line, "quit", 4)) return 0;
        line[n] = 0;
        char *number = strchr(line, ' ');
        double seconds = number ? atof(number) : 1;
        if (!strncmp(line, "storm", 5)) storm(seconds);
        else if (!strcmp(opt.mode, "accept")) accept_for(seconds);
        else measure(seconds);
    }
}
