/* Opens streams and measures them: driver PORT OPEN RATE FIRST LAST < REQUESTS. Linux, one thread, epoll.
 *
 * REQUESTS has HTTP requests, each as a line with its length, then its bytes. Each gets a connection. At most OPEN run at
 * once; RATE of them start in a second (0: at once). Prints a line for each request, in their order:
 * status, 1 where Retry-After was sent, 1 where LAST arrived, and the milliseconds from the driver's start to its own
 * start, to FIRST (-1: never) and to the end of the response.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, KEPT = 8192, SILENCE_MS = 90000 };

struct exchange {
  char *request;
  size_t length, sent, kept;
  size_t received, expected; /* bytes of the response; expected is 0 where it is chunked */
  int fd, status, retry_after, complete;
  double started, first, ended;
  char *tail; /* the end of what was received: a marker may arrive in two pieces */
};

static const char *first_marker, *last_marker;
static double beginning;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6 - beginning;
}

static void start(struct exchange *each, int poll, const struct sockaddr_in *address) {
  each->started = now();
  each->first = -1;
  each->tail = malloc(KEPT + 1);
  each->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (each->fd < 0) fail("socket");
  if (connect(each->fd, (const struct sockaddr *)address, sizeof *address) && errno != EINPROGRESS) fail("connect");
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = each};
  if (epoll_ctl(poll, EPOLL_CTL_ADD, each->fd, &event)) fail("epoll_ctl");
}

/* Sends the request. Returns 0 where the connection failed. */
static int transmit(struct exchange *each, int poll) {
  ssize_t sent = send(each->fd, each->request + each->sent, each->length - each->sent, MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN;
  each->sent += sent;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = each};
  if (each->sent == each->length && epoll_ctl(poll, EPOLL_CTL_MOD, each->fd, &event)) fail("epoll_ctl");
  return 1;
}

/* Reads what has arrived. Returns 0 at the end of the response. */
static int receive(struct exchange *each) {
  for (;;) {
    if (each->kept > KEPT / 2) { /* keeps enough for a marker that is cut */
      memmove(each->tail, each->tail + each->kept - 128, 128);
      each->kept = 128;
    }
    ssize_t size = recv(each->fd, each->tail + each->kept, KEPT - each->kept, 0);
    if (size < 0) return errno == EAGAIN;
    if (size == 0) return 0;
    each->kept += size;
    each->received += size;
    each->tail[each->kept] = 0;
    char *head = each->status ? NULL : strstr(each->tail, "\r\n\r\n");
    if (head && sscanf(each->tail, "HTTP/1.1 %d", &each->status) == 1) {
      *head = 0; /* the search for headers ends here */
      char *length = strcasestr(each->tail, "\r\ncontent-length:");
      each->expected = length ? head + 4 - each->tail + strtoul(length + 17, NULL, 10) : 0;
      each->retry_after = strcasestr(each->tail, "\r\nretry-after:") != NULL;
      *head = '\r';
    }
    if (each->first < 0 && memmem(each->tail, each->kept, first_marker, strlen(first_marker))) each->first = now();
    if (memmem(each->tail, each->kept, last_marker, strlen(last_marker))) each->complete = 1;
    if (each->expected ? each->received >= each->expected : each->kept >= 7 &&
        !memcmp(each->tail + each->kept - 7, "\r\n0\r\n\r\n", 7)) return 0;
  }
}

int main(int count, char **arguments) {
  if (count != 6) return fputs("usage: driver PORT OPEN RATE FIRST LAST < REQUESTS\n", stderr), 2;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  size_t most_open = atoi(arguments[2]), total = 0, started = 0, ended = 0, length;
  double rate = atof(arguments[3]);
  first_marker = arguments[4];
  last_marker = arguments[5];
  struct exchange *all = NULL;
  while (scanf("%zu", &length) == 1) {
    if ((total & (total - 1)) == 0) all = realloc(all, (total ? total * 2 : 1) * sizeof *all);
    all[total] = (struct exchange){.request = malloc(length), .length = length};
    getchar();
    if (fread(all[total].request, 1, length, stdin) != length) fail("stdin");
    total++;
  }
  int poll = epoll_create1(0);
  struct epoll_event events[EVENTS];
  beginning = now();
  double last_event = 0;
  while (ended < total) {
    while (started < total && started - ended < most_open && (rate == 0 || now() * rate / 1000 >= started))
      start(&all[started++], poll, &address);
    int ready = epoll_wait(poll, events, EVENTS, started < total && rate > 0 ? 1 : SILENCE_MS);
    if (ready < 0 && errno != EINTR) fail("epoll_wait");
    if (ready > 0) last_event = now();
    if (now() - last_event >= SILENCE_MS) return fprintf(stderr, "silence; %zu of %zu ended\n", ended, total), 1;
    for (int index = 0; index < ready; index++) {
      struct exchange *each = events[index].data.ptr;
      int runs = !(events[index].events & EPOLLOUT) || transmit(each, poll);
      if (runs && events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) runs = receive(each);
      if (runs) continue;
      each->ended = now();
      close(each->fd);
      free(each->tail);
      ended++;
    }
  }
  for (struct exchange *each = all; each < all + total; each++)
    printf("%d %d %d %.3f %.3f %.3f\n", each->status, each->retry_after, each->complete, each->started, each->first,
           each->ended);
}
