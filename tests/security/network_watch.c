/* Notes every name that a process looks up and every address beyond this machine that it connects or sends to.
   Preloaded into the server and all its children; native libraries go through it like Python. Build: cc -shared -fPIC. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what, const char *where) {
    const char *file = getenv("NETWORK_WATCH");
    int log = file ? open(file, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s\n", what, where);
    if (log < 0) return;
    if (write(log, line, length) < 0) abort();
    close(log);
}

static void note_address(const char *what, const struct sockaddr *to) {
    char text[INET6_ADDRSTRLEN] = "";
    if (!to) return;
    if (to->sa_family == AF_INET) {
        const struct in_addr *address = &((const struct sockaddr_in *)to)->sin_addr;
        if ((ntohl(address->s_addr) >> 24) == 127) return;
        inet_ntop(AF_INET, address, text, sizeof text);
    } else if (to->sa_family == AF_INET6) {
        const struct in6_addr *address = &((const struct sockaddr_in6 *)to)->sin6_addr;
        if (IN6_IS_ADDR_LOOPBACK(address)) return;
        inet_ntop(AF_INET6, address, text, sizeof text);
    } else {
        return;
    }
    note(what, text);
}

static int is_numeric(const char *name) {
    unsigned char space[16];
    return inet_pton(AF_INET, name, space) == 1 || inet_pton(AF_INET6, name, space) == 1;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    if (node && *node && !is_numeric(node) && strcmp(node, "localhost")) note("lookup", node);
    return real(node, service, hints, found);
}

struct hostent *gethostbyname(const char *name) {
    struct hostent *(*real)(const char *) = dlsym(RTLD_NEXT, "gethostbyname");
    if (!is_numeric(name) && strcmp(name, "localhost")) note("lookup", name);
    return real(name);
}

int connect(int descriptor, const struct sockaddr *to, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    note_address("connect", to);
    return real(descriptor, to, length);
}

ssize_t sendto(int descriptor, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    note_address("sendto", to);
    return real(descriptor, data, size, flags, to, length);
}
