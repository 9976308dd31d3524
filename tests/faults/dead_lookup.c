/* A name server that never answers: a look-up takes as many seconds as DEAD_LOOKUP_S says. */
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    (void)node, (void)service, (void)hints, (void)found;
    sleep(atoi(getenv("DEAD_LOOKUP_S")));
    return EAI_AGAIN;
}
