//! The state-of-the-world protocol.

use super::{Flavor, run};

const RULES: &[(&str, &str)] = &[
    (
        "clusters and listeners are always complete",
        "
        view C:a=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1
        view C:a=2 C:b=1
        < C#2 a=2 b=1
        > C nonce=2
        view C:b=1
        < C#3 b=1
        > C nonce=3
        view C:b=1",
    ),
    (
        "endpoints and routes come by name, the changed ones only",
        "
        view E:a=1 E:b=1 E:c=1
        > E names=a,b
        < E#1 a=1 b=1
        > E names=a,b nonce=1
        view E:a=1 E:b=2 E:c=2
        < E#2 b=2
        > E names=a,b nonce=2",
    ),
    (
        "extensions come by name, and a new one when it is there",
        "
        view X:x=1 X:y=1
        > X names=x,z
        < X#1 x=1
        > X names=x,z nonce=1
        view X:x=2 X:y=1 X:z=1
        < X#2 x=2 z=1
        > X names=x,z nonce=2",
    ),
    (
        "an empty first request means everything only for clusters and listeners",
        "
        view E:a=1 L:l=1
        > E
        > L
        < L#1 l=1",
    ),
    (
        "an empty one after names means none",
        "
        view C:a=1
        > C names=a
        < C#1 a=1
        > C nonce=1
        view C:a=2",
    ),
    (
        "a request that answers an outdated response is ignored",
        "
        view C:a=1 C:b=1
        > C names=a
        < C#1 a=1
        > C names=a nonce=1
        view C:a=2 C:b=1
        < C#2 a=2
        > C names=a,b nonce=1
        > C names=a,b nonce=2
        < C#3 a=2 b=1",
    ),
    (
        "a name that is not there leaves a complete response without it, and is remembered",
        "
        view C:b=1
        > C names=a
        < C#1
        > C names=a nonce=1
        view C:a=1 C:b=1
        < C#2 a=1",
    ),
    (
        "endpoints that are not there are remembered",
        "
        view 
        > E names=a
        view E:a=1
        < E#1 a=1",
    ),
    (
        "a rejection keeps the last good, also in complete responses",
        "
        view C:a=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1
        view C:a=2 C:b=1
        < C#2 a=2 b=1
        > C nonce=2 nack=bad
        view C:a=2 C:b=2
        < C#3 a=1 b=2
        > C nonce=3
        holds C:a=1 C:b=2
        unacknowledged C:a rejected 2 (bad)",
    ),
    (
        "of several, the culprit is found as with the incremental protocol",
        "
        view C:a=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1 nack=b
        < C#2 a=1
        > C nonce=2
        < C#3 a=1 b=1
        > C nonce=3 nack=b
        holds C:a=1
        unacknowledged C:b rejected 1 (b)",
    ),
    (
        "gRPC: listener, route, cluster, endpoints, each asked for by name after the one before",
        "
        view C:a=1 E:a=1 L:l=1<R:r R:r=1<C:a,E:a
        > L names=l
        < L#1 l=1
        > L names=l nonce=1
        > R names=r
        < R#2 r=1
        > R names=r nonce=2
        > C names=a
        < C#3 a=1
        > C names=a nonce=3
        > E names=a
        < E#4 a=1
        > E names=a nonce=4
        view C:a=1 E:a=1 C:b=1 E:b=1 L:l=1<R:r R:r=2<C:b,E:b
        < R#5 r=2
        > C names=a,b nonce=3
        < C#6 a=1 b=1
        > R names=r nonce=5
        > C names=b nonce=6",
    ),
    (
        "a cluster stays in complete responses while a route held requires it",
        "
        view C:a=1 R:r=1<C:a
        > C
        < C#1 a=1
        > C nonce=1
        > R names=r
        < R#2 r=1
        > R names=r nonce=2
        view C:b=1 R:r=2<C:b
        < C#3 a=1 b=1
        > C nonce=3
        < R#4 r=2
        > R names=r nonce=4
        < C#5 b=1",
    ),
    (
        "everything and on-demand names together",
        "
        view C:a=1 absent=dst|x
        > C names=*,dst|x
        wanted dst|x
        < C#1 a=1
        > C names=*,dst|x nonce=1
        view C:a=1 C:dst|x=1
        < C#2 a=1 dst|x=1",
    ),
    (
        "a nonce of an earlier stream begins this one",
        "
        view C:a=1
        > C nonce=9
        < C#1 a=1",
    ),
];

#[test]
fn rules() {
    for (name, script) in RULES {
        run(Flavor::Sotw, name, script);
    }
}
