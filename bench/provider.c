/* A model provider that replays recorded streams: provider FD FILE. Linux, one thread, epoll.
 *
 * FD is a listening socket. FILE has the streams, each as a line "PATH HEAD DELTA TAIL" with three lengths, then the
 * three parts: an HTTP response up to its first delta, one delta, and the rest. "[stream N P]" in a request's body
 * selects N deltas, P milliseconds apart.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STREAMS = 16, EVENTS = 256, REQUEST_BYTES = 1 << 20 };

struct stream {
  char path[128];
  size_t lengths[3];
  char *parts[3];
} streams[STREAMS];

struct connection {
  struct connection *next, *previous; /* in the list of those that stream */
  int fd;
  char *request;
  size_t received, capacity;
  const struct stream *stream; /* NULL between responses */
  int deltas;                  /* that are not sent yet */
  double pause, due;
  const char *out;
  size_t left;
  int part;
};

static struct connection active = {.next = &active, .previous = &active};

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void load(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) fail(path);
  for (struct stream *each = streams; each < streams + STREAMS; each++) {
    size_t *lengths = each->lengths;
    if (fscanf(file, "%127s %zu %zu %zu", each->path, lengths, lengths + 1, lengths + 2) != 4) break;
    fgetc(file);
    for (int part = 0; part < 3; part++) {
      each->parts[part] = malloc(lengths[part]);
      if (fread(each->parts[part], 1, lengths[part], file) != lengths[part]) fail(path);
    }
  }
  fclose(file);
}

static void end(struct connection *client) {
  client->next->previous = client->previous;
  client->previous->next = client->next;
  close(client->fd);
  free(client->request);
  free(client);
}

static void use(struct connection *client, int part) {
  client->part = part;
  client->out = client->stream->parts[part];
  client->left = client->stream->lengths[part];
}

/* Writes what is due. Returns 0 where the connection has ended. */
static int advance(struct connection *client, double time) {
  while (client->stream) {
    if (client->left) {
      ssize_t sent = send(client->fd, client->out, client->left, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0) return errno == EAGAIN; /* a slow reader: tried again a millisecond later */
      client->out += sent;
      client->left -= sent;
    } else if (client->part == 2) {
      client->stream = NULL;
      client->next->previous = client->previous;
      client->previous->next = client->next;
      client->next = client->previous = client;
    } else if (client->part == 0) {
      client->due = time;
      use(client, 1);
      client->deltas--;
    } else {
      if (time < client->due + client->pause) return 1;
      client->due += client->pause; /* relative to the last due time, so that delays do not add up */
      if (client->deltas-- > 0) use(client, 1);
      else use(client, 2);
    }
  }
  return 1;
}

/* Starts the response if the request is complete. Returns 0 where it is none that we know. */
static int start(struct connection *client) {
  char *request = client->request, *body = strstr(request, "\r\n\r\n");
  if (!body || client->stream) return 1;
  body += 4;
  char *length = strcasestr(request, "\r\ncontent-length:");
  size_t expected = length && length < body ? strtoul(length + 17, NULL, 10) : 0;
  if (client->received < (size_t)(body - request) + expected) return 1;
  char *chunked = strcasestr(request, "\r\ntransfer-encoding: chunked");
  if (chunked && chunked < body && strcmp(request + client->received - 5, "0\r\n\r\n")) return 1;
  char *path = strchr(request, ' '), *script = strstr(body, "[stream ");
  int deltas, pause;
  if (!path || !script || sscanf(script, "[stream %d %d]", &deltas, &pause) != 2) return 0;
  size_t size = strcspn(++path, " ?");
  for (struct stream *each = streams; each < streams + STREAMS; each++) {
    if (strlen(each->path) != size || strncmp(each->path, path, size)) continue;
    client->stream = each;
    client->deltas = deltas;
    client->pause = pause;
    client->received = 0;
    use(client, 0);
    client->previous = &active;
    client->next = active.next;
    active.next->previous = client;
    active.next = client;
    return advance(client, now());
  }
  return 0;
}

static int receive(struct connection *client) {
  for (;;) {
    if (client->received + 1 >= client->capacity) {
      client->capacity = client->capacity ? client->capacity * 2 : 1 << 15;
      if (client->capacity > REQUEST_BYTES) return 0;
      client->request = realloc(client->request, client->capacity);
    }
    size_t room = client->capacity - client->received - 1;
    ssize_t size = recv(client->fd, client->request + client->received, room, MSG_DONTWAIT);
    if (size < 0) return errno == EAGAIN;
    if (size == 0) return 0;
    client->received += size;
    client->request[client->received] = 0;
    if (!start(client)) return 0;
  }
}

int main(int count, char **arguments) {
  if (count != 3) return fputs("usage: provider FD FILE\n", stderr), 2;
  int listening = atoi(arguments[1]), poll = epoll_create1(0);
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* ends with the benchmark, also where that is killed */
  load(arguments[2]);
  struct epoll_event event = {.events = EPOLLIN}, events[EVENTS];
  if (epoll_ctl(poll, EPOLL_CTL_ADD, listening, &event)) fail("epoll_ctl");
  for (;;) {
    int ready = epoll_wait(poll, events, EVENTS, active.next == &active ? -1 : 1);
    if (ready < 0 && errno != EINTR) fail("epoll_wait");
    for (int index = 0; index < ready; index++) {
      struct connection *client = events[index].data.ptr;
      if (!client) {
        int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* else a delta may wait 40 ms */
        client = calloc(1, sizeof *client);
        client->next = client->previous = client;
        client->fd = fd;
        event = (struct epoll_event){.events = EPOLLIN, .data.ptr = client};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
      } else if (!receive(client)) {
        end(client);
      }
    }
    double time = now();
    for (struct connection *client = active.next, *next; client != &active; client = next) {
      next = client->next;
      if (!advance(client, time)) end(client);
    }
  }
}
