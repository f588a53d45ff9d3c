/* Four threads with their ids and thread-local values. */
#include "live.h"
#include <pthread.h>

static __thread int local;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int waiting, released;

static void *body(void *argument)
{
    int number = (int)(long)argument;
    pid_t id = gettid();
    pthread_t self = pthread_self();
    local = 1000 + number;
    pthread_mutex_lock(&lock);
    waiting++;
    pthread_cond_broadcast(&changed);
    while (!released) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    CHECK(local == 1000 + number);
    CHECK(gettid() == id && pthread_equal(pthread_self(), self));
    return (void *)(long)(number * 3);
}

int main(int argc, char **argv)
{
    live_init(argc, argv);
    pthread_t thread[4];
    pid_t id = getpid();
    local = 5;
    for (long i = 0; i < 4; i++) CHECK(pthread_create(&thread[i], NULL, body, (void *)i) == 0);
    pthread_mutex_lock(&lock);
    while (waiting < 4) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    wait_go();
    CHECK(gettid() == id && getpid() == id && local == 5);
    pthread_mutex_lock(&lock);
    released = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    for (long i = 0; i < 4; i++) {
        void *result;
        CHECK(pthread_join(thread[i], &result) == 0 && (long)result == i * 3);
    }
    return finish();
}
