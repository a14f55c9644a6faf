//! Rejections: the resource that is meant, the last good that stays, the resources that wait, and those that go on.

use super::{Flavor, run};

const RULES: &[(&str, &str)] = &[
    (
        "a rejected resource is not sent again until its version changes; the last good stays",
        "
        view C:a=1
        > C
        < C#1 a=1
        > C nonce=1
        view C:a=2
        < C#2 a=2
        > C nonce=2 nack=bad a
        holds C:a=1
        unacknowledged C:a rejected 2 (bad a)
        view C:a=2
        view C:a=3
        < C#3 a=3
        > C nonce=3
        holds C:a=3
        unacknowledged",
    ),
    (
        "going back to the last good needs nothing sent",
        "
        view C:a=1
        > C
        < C#1 a=1
        > C nonce=1
        view C:a=2
        < C#2 a=2
        > C nonce=2 nack=bad
        view C:a=1",
    ),
    (
        "of several, the one named is tried alone, after the others went on",
        "
        view C:a=1 C:b=1 C:c=1
        > C
        < C#1 a=1 b=1 c=1
        > C nonce=1 nack=cluster b: no
        < C#2 a=1 c=1
        > C nonce=2
        < C#3 b=1
        > C nonce=3 nack=cluster b: no
        holds C:a=1 C:c=1
        unacknowledged C:b rejected 1 (cluster b: no)",
    ),
    (
        "one named without guilt is taken when it comes alone",
        "
        view C:a=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1 nack=a is like b
        < C#2 a=1
        > C nonce=2 nack=a is like b
        < C#3 b=1
        > C nonce=3
        holds C:b=1
        unacknowledged C:a rejected 1 (a is like b)",
    ),
    (
        "without a name the group is halved until the culprit is alone",
        "
        view C:a=1 C:b=1 C:c=1 C:d=1
        > C
        < C#1 a=1 b=1 c=1 d=1
        > C nonce=1 nack=?
        < C#2 a=1 b=1
        > C nonce=2
        < C#3 c=1 d=1
        > C nonce=3 nack=?
        < C#4 c=1
        > C nonce=4 nack=?
        < C#5 d=1
        > C nonce=5
        holds C:a=1 C:b=1 C:d=1
        unacknowledged C:c rejected 1 (?)",
    ),
    (
        "a resource that changes during the search is not a suspect any more",
        "
        view C:a=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1 nack=?
        < C#2 a=1
        view C:a=1 C:b=2 C:c=1
        > C nonce=2
        < C#3 b=2 c=1",
    ),
    (
        "dependents of a rejected resource wait while others go on",
        "
        view C:a=1 C:b=1 R:r=1<C:a R:s=1<C:b
        > C
        < C#1 a=1 b=1
        > R sub=r,s
        > C nonce=1 nack=a
        < C#2 b=1
        > C nonce=2
        < C#3 a=1
        < R#4 s=1
        > C nonce=3 nack=a
        > R nonce=4
        view C:a=2 C:b=1 R:r=1<C:a R:s=1<C:b
        < C#5 a=2
        > C nonce=5
        < R#6 r=1",
    ),
    (
        "parts of a rejected response that the client may have taken are removed with the view",
        "
        view C:a=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1 nack=b
        < C#2 a=1
        view 
        > C nonce=2 nack=?
        < C#3 -a -b",
    ),
    (
        "unchanged endpoints sent for warming can be rejected as well",
        "
        view C:a=1 E:a=1 E:b=1 C:b=1
        > C
        < C#1 a=1 b=1
        > C nonce=1
        > E sub=a,b
        < E#2 a=1@1 b=1@1
        > E nonce=2 nack=?
        < E#3 a=1@1
        > E nonce=3
        < E#4 b=1@1
        > E nonce=4 nack=?",
    ),
    (
        "a rejection of nothing in flight changes nothing",
        "
        view C:a=1
        > C
        < C#1 a=1
        > C nonce=1
        > C nonce=1 nack=late
        holds C:a=1
        view C:a=2
        < C#2 a=2",
    ),
    (
        "a rejected name requested again stays unanswered",
        "
        view C:a=1
        > C sub=a
        < C#1 a=1
        > C nonce=1 nack=bad
        > C sub=a",
    ),
];

#[test]
fn rules() {
    for (name, script) in RULES {
        run(Flavor::Delta, name, script);
    }
}
