//! Endpoints and the warming of their clusters.

use super::{Flavor, run};

const RULES: &[(&str, &str)] = &[
    (
        "after every update of a cluster its endpoints are sent again though unchanged",
        "
        view C:a=1 E:a=1
        > C
        < C#1 a=1
        > C nonce=1
        > E sub=a
        < E#2 a=1@1
        > E nonce=2
        view C:a=2 E:a=1
        < C#3 a=2
        < E#4 a=1@2
        > C nonce=3
        > E nonce=4
        view C:a=2 E:a=2
        < E#5 a=2@2",
    ),
    (
        "endpoints in flight when the cluster was updated are sent once more",
        "
        view C:a=1 E:a=1
        > C
        < C#1 a=1
        > C nonce=1
        > E sub=a
        < E#2 a=1@1
        view C:a=2 E:a=1
        < C#3 a=2
        > E nonce=2
        < E#4 a=1@2",
    ),
    (
        "after a reconnect the endpoints of an updated cluster are sent though unchanged",
        "
        view C:a=2 E:a=1 C:b=1 E:b=1
        > C sub=* has=a:1,b:1
        < C#1 a=2
        > E sub=a,b has=a:1@1,b:1@1
        < E#2 a=1@2
        > E nonce=2
        > C nonce=1",
    ),
    (
        "after a reconnect the endpoints are sent that an updated cluster did not get before it",
        "
        view C:a=2 E:a=1
        > C sub=* has=a:2
        > E sub=a has=a:1@1
        < E#1 a=1@2
        holds C:a=2 E:a=1
        > E nonce=1
        holds C:a=2 E:a=1
        unacknowledged",
    ),
    (
        "a route waits until an updated cluster is warm",
        "
        view C:a=1 E:a=1 L:l=1 R:r=1<C:a,E:a
        > C sub=* has=a:1
        > E sub=a has=a:1@1
        > L sub=* has=l:1
        > R sub=r has=r:1
        view C:a=2 E:a=1 L:l=1 R:r=2<C:a,E:a
        < C#1 a=2
        < E#2 a=1@2
        > C nonce=1
        > E nonce=2
        < R#3 r=2",
    ),
    (
        "a cluster that goes takes its endpoints along",
        "
        view C:a=1 E:a=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1
        > E sub=a
        < E#2 a=1@1
        > E nonce=2
        view C:b=1
        < C#3 -a
        > C nonce=3
        < E#4 -a
        > E nonce=4 unsub=a",
    ),
];

#[test]
fn rules() {
    for (name, script) in RULES {
        run(Flavor::Delta, name, script);
    }
}
