//! Requirements: the order of sends and removals.

use super::{Flavor, run};

const ON_DEMAND: &str = "view C:a=1 E:a=1 L:l=1 R:r=1<C:a,E:a C:dst|x=1<C:a,E:a,L:l,R:r";

/// A route to two backends, as the client reports it on reconnect.
const TWO_BACKENDS: &str = "view C:a=1 E:a=1 C:b=1 E:b=1 L:l=1<R:r R:r=1<C:a,E:a,C:b,E:b
        > C sub=* has=a:1,b:1
        > E sub=a,b has=a:1@1,b:1@1
        > L sub=* has=l:1
        > R sub=r has=r:1
        resynced";

const RULES: &[(&str, &str)] = &[
    (
        "routes lead elsewhere before a cluster and its last endpoints go",
        "
        TWO_BACKENDS
        view C:a=2 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < R#1 r=2
        > R nonce=1
        < C#2 a=2
        < E#3 a=none@2
        > E nonce=3
        > C nonce=2
        view C:a=3 E:a=3 C:b=1 E:b=1 L:l=1<R:r R:r=3<C:a,E:a,C:b,E:b
        < C#4 a=3
        < E#5 a=3@3
        > E nonce=5
        > C nonce=4
        < R#6 r=3",
    ),
    (
        "a backend takes over before the last endpoints of another one go",
        "
        view C:a=1 E:a=1 C:b=1 E:b=none L:l=1<R:r R:r=1<C:a,E:a,C:b,E:b
        > C sub=* has=a:1,b:1
        > E sub=a,b has=a:1@1,b:none@1
        > L sub=* has=l:1
        > R sub=r has=r:1
        resynced
        view C:a=1 E:a=none C:b=1 E:b=2 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < E#1 b=2@1
        > E nonce=1
        < R#2 r=2
        > R nonce=2
        < E#3 a=none@1",
    ),
    (
        "after a reconnect the last endpoints wait for routes not asked for yet",
        "
        view C:a=1 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        > C sub=* has=a:1,b:1
        > E sub=a,b has=a:1@1,b:1@1
        > L sub=* has=l:1
        > R sub=r has=r:1
        < R#1 r=2
        > R nonce=1
        < E#2 a=none@1",
    ),
    (
        "endpoints to which no newer route leads go at once",
        "
        TWO_BACKENDS
        view C:a=1 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=1<C:a,E:a,C:b,E:b
        < E#1 a=none@1",
    ),
    (
        "endpoints do not wait for a route that the client rejects",
        "
        TWO_BACKENDS
        view C:a=1 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < R#1 r=2
        > R nonce=1 nack=bad
        < E#2 a=none@1",
    ),
    (
        "endpoints wait for a route that waits for a cluster to be asked for",
        "
        TWO_BACKENDS
        view C:a=1 E:a=none C:b=1 E:b=1 C:c=1 E:c=1 L:l=1<R:r R:r=2<C:b,E:b,C:c,E:c
        < C#1 c=1
        > C nonce=1
        > E sub=c
        < E#2 c=1@1
        > E nonce=2
        < R#3 r=2
        > R nonce=3
        < E#4 a=none@1",
    ),
    (
        "endpoints do not wait for a route that cannot be sent",
        "
        TWO_BACKENDS
        view C:a=1 E:a=none C:b=1 E:b=1 C:c=1 E:c=1 L:l=1<R:r R:r=2<C:b,E:b,C:c,E:c
        < C#1 c=1
        > C nonce=1 nack=bad
        < E#2 a=none@1",
    ),
    (
        "endpoints wait for a route that the client does not answer at most as long as the caller allows",
        "
        TWO_BACKENDS
        view C:a=2 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < R#1 r=2
        late
        late
        < C#2 a=2
        < E#3 a=none@2
        > E nonce=3
        > C nonce=2
        late
        late
        holds C:a=2 C:b=1 E:a=none E:b=1 L:l=1 R:r=1",
    ),
    (
        "the wait of a further cluster for the same route has its full time",
        "
        TWO_BACKENDS
        view C:a=1 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < R#1 r=2
        late
        view C:a=1 E:a=none C:b=1 E:b=none L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        late
        < E#2 a=none@1
        > E nonce=2
        late
        < E#3 b=none@1",
    ),
    (
        "a wait that was ended begins again after endpoints came back",
        "
        TWO_BACKENDS
        view C:a=1 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < R#1 r=2
        late
        late
        < E#2 a=none@1
        > E nonce=2
        view C:a=1 E:a=3 C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < E#3 a=3@1
        > E nonce=3
        view C:a=1 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        late
        late
        < E#4 a=none@1",
    ),
    (
        "a wait ends for endpoints whose newer route waits for a cluster that is never asked for",
        "
        TWO_BACKENDS
        view C:a=1 E:a=none C:b=1 E:b=1 C:c=1 E:c=1 L:l=1<R:r R:r=2<C:b,E:b,C:c,E:c
        < C#1 c=1
        > C nonce=1
        late
        late
        < E#2 a=none@1",
    ),
    (
        "a cluster that warms gets the endpoints that it had, if its newest version waits for routes",
        "
        TWO_BACKENDS
        view C:a=2 E:a=1 C:b=1 E:b=1 L:l=1<R:r R:r=1<C:a,E:a,C:b,E:b
        < C#1 a=2
        < E#2 a=1@2
        view C:a=3 E:a=none C:b=1 E:b=1 L:l=1<R:r R:r=2<C:a,E:a,C:b,E:b
        < R#3 r=2
        > E nonce=2
        > C nonce=1
        > R nonce=3
        < C#4 a=3
        < E#5 a=none@3",
    ),
    (
        "an on-demand cluster is released after listener, route and endpoints",
        "
        view absent=dst|x
        > C
        < C#1
        > C nonce=1
        > L
        < L#2
        > L nonce=2
        > C sub=dst|x
        < C#3 -dst|x
        > C nonce=3
        ON_DEMAND
        < C#4 a=1
        < L#5 l=1
        > L nonce=5
        > R sub=r
        > C nonce=4
        > E sub=a
        < E#6 a=1@1
        > E nonce=6
        < R#7 r=1
        > R nonce=7
        < C#8 dst|x=1",
    ),
    (
        "after a reconnect an on-demand cluster waits for listeners not asked for yet",
        "
        ON_DEMAND
        > C sub=*,dst|x has=a:1
        > E sub=a has=a:1@1
        > L sub=* has=l:1
        > R sub=r has=r:1
        < C#1 dst|x=1",
    ),
    (
        "a listener does not wait for a route that no client can ask for yet",
        "
        view L:l=1<R:r R:r=1
        > L
        < L#1 l=1
        > L nonce=1
        > R sub=r
        < R#2 r=1",
    ),
    (
        "a route asked for is updated before the listener that requires it",
        "
        view L:l=1<R:r R:r=1
        > L sub=* has=l:1
        > R sub=r has=r:1
        view L:l=2<R:r R:r=2
        < R#1 r=2
        > R nonce=1
        < L#2 l=2",
    ),
    (
        "a cluster does not wait for its own endpoints",
        "
        view C:a=1<E:a E:a=1
        > C
        < C#1 a=1",
    ),
    (
        "a route does not wait for clusters that the client asks for by name, and later",
        "
        view C:a=1 E:a=1 R:r=1<C:a,E:a
        > R sub=r
        < R#1 r=1",
    ),
    (
        "a requirement that is not in the view does not count",
        "
        view R:r=1<C:a,E:a
        > C
        < C#1
        > R sub=r
        < R#2 r=1",
    ),
    (
        "endpoints without a cluster do not count",
        "
        view R:r=1<E:a E:a=1
        > C
        < C#1
        > R sub=r
        < R#2 r=1",
    ),
    (
        "removals come last, a resource before those it refers to",
        "
        view C:a=1 E:a=1 L:l=1<C:a,E:a C:dst|x=1<C:a,E:a,L:l
        > C sub=*,dst|x has=a:1,dst|x:1
        > E sub=a has=a:1@1
        > L sub=* has=l:1
        resynced
        view C:b=1 absent=dst|x
        < C#1 b=1
        > C nonce=1
        < C#2 -dst|x
        > C nonce=2
        < L#3 -l
        > L nonce=3
        < C#4 -a
        > E unsub=a
        > C nonce=4",
    ),
    (
        "a cluster stays while a route that the client holds requires it",
        "
        view C:a=1 L:l=1 R:r=1<C:a
        > C sub=* has=a:1
        > L sub=* has=l:1
        > R sub=r has=r:1
        resynced
        view C:b=1 L:l=1 R:r=2<C:b
        < C#1 b=1
        > C nonce=1
        < R#2 r=2
        > R nonce=2
        < C#3 -a",
    ),
    (
        "a cluster stays while the route that would leave it is rejected",
        "
        view C:a=1 R:r=1<C:a
        > C sub=* has=a:1
        > R sub=r has=r:1
        resynced
        view C:b=1 R:r=2<C:b
        < C#1 b=1
        > C nonce=1
        < R#2 r=2
        > R nonce=2 nack=no
        view C:b=1 R:r=3<C:b
        < R#3 r=3
        > R nonce=3
        < C#4 -a",
    ),
    (
        "a cluster stays for a draining listener until the client gives up the route",
        "
        view C:a=1 L:l=1 R:r=1<C:a
        > C sub=* has=a:1
        > L sub=* has=l:1
        > R sub=r has=r:1
        resynced
        view
        < L#1 -l
        > L nonce=1
        < R#2 -r
        > R nonce=2
        > R unsub=r
        < C#3 -a",
    ),
    (
        "after a reconnect, a cluster that warms gets its endpoints, also if they are empty and routes lead to it",
        "
        view C:a=2 E:a=2 L:l=1<R:r R:r=1<C:a,E:a
        > C sub=* has=a:1
        < C#1 a=2
        view C:a=3 E:a=none L:l=1<R:r R:r=2<C:a,E:a
        > E sub=a has=a:1@1
        < E#2 a=none@2",
    ),
    (
        "after a reconnect, a cluster that loses its endpoints waits for the routes that lead to it",
        "
        view C:a=2 E:a=none L:l=1<R:r R:r=2
        > C sub=* has=a:1
        > E sub=a has=a:1@1
        > L sub=* has=l:1
        > R sub=r has=r:1
        < R#1 r=2
        > R nonce=1
        < C#2 a=2
        < E#3 a=none@2",
    ),
    (
        "a route that comes back before the client gave it up is sent again",
        "
        view R:r=1
        > R sub=r has=r:1
        resynced
        view
        < R#1 -r
        > R nonce=1
        view R:r=1
        < R#2 r=1",
    ),
    (
        "a reported resource of unknown content keeps clusters until it is updated",
        "
        view C:b=1 E:b=1 R:r=2<C:b,E:b
        > C sub=* has=a:1
        < C#1 b=1
        > R sub=r has=r:1
        > C nonce=1
        > E sub=b
        < E#2 b=1@1
        > E nonce=2
        < R#3 r=2
        > R nonce=3
        resynced
        < C#4 -a",
    ),
    (
        "a cluster asked for again while it only stays for a route is given again",
        "
        view C:a=1 R:r=1<C:a
        > C sub=* has=a:1
        > R sub=r has=r:1
        resynced
        view C:b=1 R:r=2<C:b
        < C#1 b=1
        > C nonce=1 nack=no
        > C sub=a
        < C#2 a=1",
    ),
];

#[test]
fn rules() {
    for (name, script) in RULES {
        let script = script.replace("ON_DEMAND", ON_DEMAND);
        run(
            Flavor::Delta,
            name,
            &script.replace("TWO_BACKENDS", TWO_BACKENDS),
        );
    }
}
