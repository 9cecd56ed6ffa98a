/* The load: glasses and apps that speak the MentraOS wire to any server under test, counting what arrives.
 *
 * Rules: one thread, epoll, pinned beside the server by the caller. It says what it cost itself (CPU and idle share), so
 * that a reader can see whether it was the limit. With --webhook it also is the app server: a POST opens the app's socket,
 * as a real app does. Traffic goes to 127.0.0.1 only and stops by itself after --seconds.
 *
 *   loadgen --port P --mode fanout|audio|reverse|echo|paced|idle|accept --sessions S --apps A --size B --seconds T
 *           [--window W] [--rate R] [--tokens FILE] [--key K] [--webhook PORT] [--warm SECONDS]
 *
 * Prints JSON lines on stdout: {"event":"ready"}, {"event":"go"}, {"event":"done",...}. With --hold it waits on stdin
 * for a line before it leaves (memory is read while the connections stand).
 */
#include "ws.h"

#include <signal.h>

enum kind { GLASSES, APP, WEBHOOK_LISTENER, WEBHOOK };
enum phase { CONNECTING, UPGRADING, GREETING, READY, CLOSED };

typedef struct conn {
    int fd;
    enum kind kind;
    enum phase phase;
    int session, app;
    int writable_armed;
    buffer in, out;
} conn;

static struct {
    int port, sessions, apps, window, webhook, hold;
    size_t size;
    double seconds, warm, rate;
    const char *mode, *tokens, *key;
} opt = {.sessions = 1, .apps = 1, .window = 8, .size = 200, .seconds = 5, .warm = 1, .rate = 1000, .mode = "fanout",
         .key = "bench-key"};

static int ep;
static conn **glasses, **apps;
static char **users, **tokens;
static long ready_glasses, ready_apps, opening;
static unsigned long long delivered, sent, bytes_in, failures;
static unsigned long long *session_sent, *session_delivered;
static char *event_frame;
static size_t event_frame_size, event_payload_size;
static int measuring;

static double *latencies;
static size_t latency_count, latency_room;

static void die(const char *what)
{
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
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
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
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
                     kind == GLASSES ? "/glasses-ws?token=" : "/app-ws", kind == GLASSES ? tokens[session] : "",
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
            counts = memmem(p, look, "display_event", 13) != NULL || memmem(p, look, "\"pong\"", 6) != NULL;
        if (!counts) return;
        session_delivered[c->session]++;
        if (measuring) {
            delivered++;
            bytes_in += n;
            if (!strcmp(opt.mode, "paced")) {
                char *at = memmem(p, n, "@@", 2);
                if (at) add_latency(now_s() - strtod(at + 2, NULL));
            }
        }
        return;
    }
    if (c->phase != GREETING || op != OP_TEXT) return;
    size_t look = n < 4096 ? n : 4096;
    if (c->kind == GLASSES && memmem(p, look, "connection_ack", 14)) {
        c->phase = READY;
        opening--;
        ready_glasses++;
        if (opt.webhook)
            for (int a = 0; a < opt.apps; a++) {
                char text[256];
                snprintf(text, sizeof text, "{\"type\":\"start_app\",\"packageName\":\"com.bench.a%d\"}", a);
                say(c, text);
            }
    } else if (c->kind == APP && memmem(p, look, "tpa_connection_ack", 18)) {
        char text[1024];
        snprintf(text, sizeof text,
                 "{\"type\":\"subscription_update\",\"packageName\":\"com.bench.a%d\",\"subscriptions\":[\"%s\"],"
                 "\"sessionId\":\"%s-com.bench.a%d\"}",
                 c->app, !strcmp(opt.mode, "audio") ? "audio_chunk" : "button_press", users[c->session], c->app);
        say(c, text);
        c->phase = READY;
        opening--;
        ready_apps++;
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
    if (c->kind == APP) greet_app(c);
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
            int session = by_bench_name(text, "\"userId\":\"bench");
            int app = by_bench_name(text, "-com.bench.a");
            if (session >= 0 && session < opt.sessions && app >= 0 && app < opt.apps)
                apps[session * opt.apps + app] = open_socket(APP, session, app);
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
    } else if (!strcmp(opt.mode, "reverse")) {
        static const char head[] = "{\"type\":\"display_event\",\"sessionId\":\"\",\"packageName\":\"com.bench.a0\",\"view\":"
                                   "\"dashboard\",\"layout\":{\"layoutType\":\"text_wall\",\"text\":\"";
        n = sizeof head - 1;
        memcpy(payload, head, n);
        while (n + 3 < opt.size) payload[n++] = 'x';
        memcpy(payload + n, "\"}}", 3);
        n += 3;
    } else if (!strcmp(opt.mode, "echo")) {
        n = (size_t)sprintf(payload, "{\"type\":\"ping\"}");
    } else {
        /* The press type carries padding; "@@" and 20 characters are overwritten with the send time in paced mode. */
        static const char head[] = "{\"type\":\"button_press\",\"pressType\":\"short\",\"timestamp\":1767225600000,\"buttonId\":"
                                   "\"@@00000000000.00000000";
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
    if (!strcmp(opt.mode, "paced")) {
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

static void run_for(double seconds)
{
    double end = now_s() + seconds;
    unsigned fan = !strcmp(opt.mode, "reverse") || !strcmp(opt.mode, "echo") ? 1u : (unsigned)opt.apps;
    if (!strcmp(opt.mode, "paced")) {
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
    tokens = calloc((size_t)opt.sessions, sizeof *tokens);
    FILE *f = opt.tokens ? fopen(opt.tokens, "r") : NULL;
    if (opt.tokens && !f) die(opt.tokens);
    for (int i = 0; i < opt.sessions; i++) {
        char user[256], token[4096] = "none";
        snprintf(user, sizeof user, "bench%d@example.com", i);
        if (f && fscanf(f, "%255s %4095s", user, token) != 2) {
            fprintf(stderr, "loadgen: %s has fewer than %d lines\n", opt.tokens, opt.sessions);
            exit(2);
        }
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

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--hold")) {
            opt.hold = 1;
            continue;
        }
        i++;
        if (!strcmp(name, "--port")) opt.port = atoi(value);
        else if (!strcmp(name, "--mode")) opt.mode = value;
        else if (!strcmp(name, "--sessions")) opt.sessions = atoi(value);
        else if (!strcmp(name, "--apps")) opt.apps = atoi(value);
        else if (!strcmp(name, "--size")) opt.size = (size_t)atoi(value);
        else if (!strcmp(name, "--seconds")) opt.seconds = atof(value);
        else if (!strcmp(name, "--warm")) opt.warm = atof(value);
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
    ep = epoll_create1(0);
    read_tokens();
    make_event();
    glasses = calloc((size_t)opt.sessions, sizeof *glasses);
    apps = calloc((size_t)opt.sessions * (size_t)opt.apps + 1, sizeof *apps);
    session_sent = calloc((size_t)opt.sessions, sizeof *session_sent);
    session_delivered = calloc((size_t)opt.sessions, sizeof *session_delivered);
    if (opt.webhook) listen_for_webhooks();

    if (!strcmp(opt.mode, "accept")) {
        /* Connect, be acknowledged, close, again: --window at a time, from the pool of users. */
        unsigned long long done = 0;
        double start = now_s();
        printf("{\"event\":\"ready\"}\n{\"event\":\"go\"}\n");
        int next = 0;
        while (now_s() < start + opt.seconds) {
            for (int i = 0; i < opt.sessions && opening < opt.window; i++, next++) {
                int s = next % opt.sessions;
                if (glasses[s] && glasses[s]->phase != CLOSED) continue;
                if (glasses[s]) {
                    free(glasses[s]->in.data);
                    free(glasses[s]->out.data);
                    free(glasses[s]);
                }
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
        double wall = now_s() - start;
        printf("{\"event\":\"done\",\"mode\":\"accept\",\"delivered\":%llu,\"sent\":%llu,\"wall\":%.4f,\"generator_cpu\":%.4f,"
               "\"failures\":%llu}\n", done, done, wall, cpu_s(), failures);
        return 0;
    }

    for (int s = 0; s < opt.sessions; s++) {
        glasses[s] = open_socket(GLASSES, s, 0);
        while (opening > 200) poll_once(20);
    }
    wait_until(&ready_glasses, opt.sessions, 60, "glasses acknowledged");
    if (!opt.webhook)
        for (int s = 0; s < opt.sessions; s++)
            for (int a = 0; a < opt.apps; a++) {
                apps[s * opt.apps + a] = open_socket(APP, s, a);
                while (opening > 200) poll_once(20);
            }
    wait_until(&ready_apps, (long)opt.sessions * opt.apps, 120, "apps acknowledged");
    double settle = now_s() + 1.0;
    while (now_s() < settle) poll_once(20);
    printf("{\"event\":\"ready\"}\n");
    if (strcmp(opt.mode, "idle") != 0) {
        run_for(opt.warm);
        printf("{\"event\":\"go\"}\n");
        measuring = 1;
        double start = now_s(), cpu = cpu_s();
        run_for(opt.seconds);
        double wall = now_s() - start;
        measuring = 0;
        cpu = cpu_s() - cpu;
        printf("{\"event\":\"done\",\"mode\":\"%s\",\"delivered\":%llu,\"sent\":%llu,\"bytes\":%llu,\"wall\":%.4f,"
               "\"generator_cpu\":%.4f,\"failures\":%llu",
               opt.mode, delivered, sent, bytes_in, wall, cpu, failures);
        if (latency_count) {
            qsort(latencies, latency_count, sizeof *latencies, by_value);
            printf(",\"latency_ms\":{\"p50\":%.4f,\"p99\":%.4f,\"max\":%.4f,\"n\":%zu}", latencies[latency_count / 2] * 1e3,
                   latencies[latency_count * 99 / 100] * 1e3, latencies[latency_count - 1] * 1e3, latency_count);
        }
        printf("}\n");
    }
    if (opt.hold) {
        fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
        char line[16];
        while (read(0, line, sizeof line) < 0 && errno == EAGAIN) poll_once(20);
    }
    return 0;
}
