// SPDX-License-Identifier: Apache-2.0
/* One-thread load generator: both ends of the traffic live in this thread, so that no scheduler stands in between.
 *
 * load WORLD_NETNS POD_NETNS CGROUP_PROCS ADDRESS CPU HELLO
 * HELLO: a file with a TLS ClientHello.
 * The server's sockets are made in WORLD_NETNS and in the start cgroup; then the process enters the pod.
 * Standard input: "MODE MILLISECONDS"; standard output: "MODE OPERATIONS CPU_NS ERRNO" of the calling thread.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TCP_PORT = 7001, CONNECT_PORT = 7003, UDP_PORT = 7004, HTTP_PORT = 7005, TLS_PORT = 7006, BATCH = 32 };

static const char request[] = "GET /v1/jobs HTTP/1.1\r\nHost: api.internal\r\nUser-Agent: python-requests/2.32.5\r\n"
			      "Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n";
static char hello[4096];
static long hello_bytes;

static char buffer[1 << 20];
static const char *address;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long long now_ns(int clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct sockaddr_in at(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, address, &a.sin_addr);
	return a;
}

static void enter_netns(const char *name)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(path);
	close(fd);
}

static void enter_cgroup(const char *procs)
{
	int fd = open(procs, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "0", 1) != 1)
		die(procs);
	close(fd);
}

static int server(int type, int port)
{
	int fd = socket(AF_INET, type, 0), one = 1, size = 4 << 20;
	struct sockaddr_in a = at(port);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (bind(fd, (void *)&a, sizeof(a)))
		die("bind");
	if (type == SOCK_STREAM && listen(fd, 4096))
		die("listen");
	return fd;
}

static int client(int type, int port)
{
	int fd = socket(AF_INET, type, 0), one = 1;
	struct sockaddr_in a = at(port);

	if (connect(fd, (void *)&a, sizeof(a))) {
		close(fd);
		return -1;
	}
	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* The sockets of a run: `s` is the pod's, `p` the world's end of a connection. */
struct ends {
	int listener, connects, udp, http, tls, s, p;
};

static int udp_round(struct ends *e)
{
	struct sockaddr_in from;
	socklen_t length = sizeof(from);

	if (send(e->s, buffer, 64, 0) != 64)
		return -1;
	if (recvfrom(e->udp, buffer, 64, MSG_DONTWAIT, (void *)&from, &length) < 0)
		return -1;
	sendto(e->udp, buffer, 64, 0, (void *)&from, length);
	return recv(e->s, buffer, 64, MSG_DONTWAIT) < 0 ? -1 : 1;
}

static int tcp_round(struct ends *e)
{
	if (send(e->s, buffer, 1, 0) != 1 || recv(e->p, buffer, 1, 0) != 1)
		return -1;
	send(e->p, buffer, 1, 0);
	return recv(e->s, buffer, 1, 0) != 1 ? -1 : 1;
}

static int http_round(struct ends *e)
{
	static const char answer[] = "HTTP/1.1 204 No Content\r\n\r\n";

	if (send(e->s, request, sizeof(request) - 1, 0) < 0 || recv(e->p, buffer, sizeof(buffer), 0) != sizeof(request) - 1)
		return -1;
	send(e->p, answer, sizeof(answer) - 1, 0);
	return recv(e->s, buffer, sizeof(buffer), 0) < 0 ? -1 : 1;
}

/* A whole connection; `first`: what the client begins with; 0 bytes: nothing. */
static int connection(int listener, int port, const char *first, long bytes)
{
	int s = client(SOCK_STREAM, port), p;

	if (s < 0)
		return -1;
	p = accept(listener, 0, 0);
	if (bytes) {
		send(s, first, bytes, 0);
		recv(p, buffer, sizeof(buffer), 0);
		send(p, buffer, 1, 0);
		recv(s, buffer, 1, 0);
	}
	close(p);
	recv(s, buffer, 1, 0);
	close(s);
	return 1;
}

static int stream(struct ends *e)
{
	long sent, total = 0;

	while ((sent = send(e->s, buffer, 65536, MSG_DONTWAIT)) > 0 && total < 1 << 20)
		total += sent;
	while (recv(e->p, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
		;
	return total >> 10; /* KiB */
}

static int operate(const char *mode, struct ends *e)
{
	struct sockaddr_in a = at(UDP_PORT);

	if (!strcmp(mode, "udp_rr"))
		return udp_round(e);
	if (!strcmp(mode, "udp_tx"))
		return send(e->s, buffer, 64, 0) == 64 ? 1 : -1;
	if (!strcmp(mode, "udp_sendto"))
		return sendto(e->s, buffer, 64, 0, (void *)&a, sizeof(a)) == 64 ? 1 : -1;
	if (!strcmp(mode, "tcp_rr"))
		return tcp_round(e);
	if (!strcmp(mode, "tcp_stream"))
		return stream(e);
	if (!strcmp(mode, "tls_stream"))
		return stream(e);
	if (!strcmp(mode, "http_rr"))
		return http_round(e);
	if (!strcmp(mode, "tls_crr"))
		return connection(e->tls, TLS_PORT, hello, hello_bytes);
	return connection(e->connects, CONNECT_PORT, buffer, !strcmp(mode, "tcp_crr"));
}

static void open_connection(struct ends *e, int listener, int port)
{
	int one = 1;

	e->s = client(SOCK_STREAM, port);
	e->p = e->s < 0 ? -1 : accept(listener, 0, 0);
	setsockopt(e->p, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int begin(const char *mode, struct ends *e)
{
	e->s = e->p = -1;
	if (!strcmp(mode, "udp_sendto")) {
		e->s = socket(AF_INET, SOCK_DGRAM, 0);
	} else if (!strncmp(mode, "udp", 3)) {
		e->s = client(SOCK_DGRAM, UDP_PORT);
	} else if (!strcmp(mode, "tcp_rr") || !strcmp(mode, "tcp_stream")) {
		open_connection(e, e->listener, TCP_PORT);
	} else if (!strcmp(mode, "http_rr")) {
		open_connection(e, e->http, HTTP_PORT);
	} else if (!strcmp(mode, "tls_stream")) {
		open_connection(e, e->tls, TLS_PORT);
		if (e->s >= 0 && send(e->s, hello, hello_bytes, 0) == hello_bytes)
			recv(e->p, buffer, sizeof(buffer), 0);
	} else {
		return 1;
	}
	return e->s >= 0;
}

static void run(const char *mode, long milliseconds, struct ends *e)
{
	long long operations = 0, start, cpu, end;
	int error = 0;

	if (!begin(mode, e)) {
		printf("%s 0 0 %d\n", mode, errno);
		return;
	}
	start = now_ns(CLOCK_MONOTONIC);
	cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
	end = start + milliseconds * 1000000LL;
	while (!error && now_ns(CLOCK_MONOTONIC) < end) {
		for (int i = 0; i < BATCH && !error; i++) {
			int done = operate(mode, e);

			if (done < 0)
				error = errno;
			else
				operations += done;
		}
		while (!strncmp(mode, "udp", 3) && recv(e->udp, buffer, 64, MSG_DONTWAIT) > 0)
			;
	}
	cpu = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	if (e->s >= 0)
		close(e->s);
	if (e->p >= 0)
		close(e->p);
	printf("%s %lld %lld %d\n", mode, operations, cpu, error);
}

int main(int argc, char **argv)
{
	struct ends e = {};
	cpu_set_t cpus;
	char mode[32];
	long milliseconds;

	if (argc != 7)
		return 2;
	int file = open(argv[6], O_RDONLY | O_CLOEXEC);

	hello_bytes = read(file, hello, sizeof(hello));
	if (hello_bytes <= 0)
		die(argv[6]);
	address = argv[4];
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[5]), &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	enter_netns(argv[1]);
	e.listener = server(SOCK_STREAM, TCP_PORT);
	e.connects = server(SOCK_STREAM, CONNECT_PORT);
	e.udp = server(SOCK_DGRAM, UDP_PORT);
	e.http = server(SOCK_STREAM, HTTP_PORT);
	e.tls = server(SOCK_STREAM, TLS_PORT);
	enter_netns(argv[2]);
	enter_cgroup(argv[3]);
	while (scanf("%31s %ld", mode, &milliseconds) == 2) {
		run(mode, milliseconds, &e);
		fflush(stdout);
	}
	return 0;
}
