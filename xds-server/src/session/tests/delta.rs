//! The incremental protocol: subscriptions, answers, reconnects.

use super::{Flavor, run};

const RULES: &[(&str, &str)] = &[
    (
        "an empty first subscription means everything, for clusters and listeners",
        "
        view C:a=1 L:l=1 R:r=1
        > C
        < C#1 a=1
        > C nonce=1
        > L
        < L#2 l=1
        > R
        holds C:a=1
        unacknowledged L:l, R:r
        > L nonce=2
        holds C:a=1 L:l=1
        unacknowledged R:r",
    ),
    (
        "an empty one after explicit names means none",
        "
        view C:a=1 C:b=1
        > C sub=a
        < C#1 a=1
        > C nonce=1
        > C unsub=a
        > C
        view C:a=2 C:b=2",
    ),
    (
        "an empty view is answered, or Envoy would wait at its start",
        "
        view
        > C
        < C#1
        > C nonce=1
        > L
        < L#2",
    ),
    (
        "a subscribed runtime layer that the view lacks is answered as removed, or Envoy would wait at its start",
        "
        view C:a=1
        > T sub=heddle
        < T#1 -heddle
        > T nonce=1
        > C
        < C#2 a=1
        > C nonce=2
        view C:a=1 T:heddle=1
        < T#3 heddle=1
        > T nonce=3
        holds C:a=1 T:heddle=1
        view C:a=1
        < T#4 -heddle
        > T nonce=4
        holds C:a=1",
    ),
    (
        "a subscribed extension that the view lacks is answered as removed, and sent once it is there",
        "
        view L:l=1
        > L
        < L#1 l=1
        > X sub=x
        < X#2 -x
        > X nonce=2
        > L nonce=1
        view L:l=1 X:x=1
        < X#3 x=1",
    ),
    (
        "an extension is sent once its listener is there, and alone when it changes",
        "
        view C:a=1 L:l=1<C:a X:x=1<C:a
        > C
        < C#1 a=1
        > C nonce=1
        > L
        < L#2 l=1
        > X sub=x
        < X#3 x=1
        > L nonce=2
        > X nonce=3
        holds C:a=1 L:l=1 X:x=1
        view C:a=1 L:l=1<C:a X:x=2<C:a
        < X#4 x=2
        > X nonce=4 nack=no
        unacknowledged X:x rejected 2 (no)
        holds C:a=1 L:l=1 X:x=1
        view C:a=1 L:l=1<C:a X:x=3<C:a
        < X#5 x=3
        > X nonce=5
        unacknowledged ",
    ),
    (
        "an extension goes after its listener, and before its cluster",
        "
        view C:a=1 L:l=1<C:a X:x=1<C:a
        > C
        < C#1 a=1
        > C nonce=1
        > L
        < L#2 l=1
        > X sub=x
        < X#3 x=1
        > L nonce=2
        > X nonce=3
        view
        < L#4 -l
        > L nonce=4
        < X#5 -x
        > X nonce=5
        > X unsub=x
        < C#6 -a",
    ),
    (
        "a client that does not subscribe to the runtime layer lacks nothing of it",
        "
        view C:a=1 T:heddle=1
        > C
        < C#1 a=1
        > C nonce=1
        unacknowledged ",
    ),
    (
        "nothing is said before there is a view",
        "
        > C sub=a
        view C:a=1
        < C#1 a=1",
    ),
    (
        "the node is sure in the first request only, and may not change",
        "
        view C:a=1
        > C node=n1
        < C#1 a=1
        > C nonce=1
        > L
        < L#2
        > L nonce=2 node=n1
        > R node=n2 fault",
    ),
    (
        "a node that comes later is another one",
        "
        > C
        > C node=n1 fault",
    ),
    (
        "a type that is not served is ignored",
        "
        view C:a=1
        > ?
        > C
        < C#1 a=1",
    ),
    (
        "one response of a kind is in flight; changes in the meantime follow",
        "
        view C:a=1
        > C
        < C#1 a=1
        view C:a=2
        view C:a=3 C:b=1
        > C nonce=1
        < C#2 a=3 b=1",
    ),
    (
        "an unchanged view sends nothing",
        "
        view C:a=1
        > C
        < C#1 a=1
        > C nonce=1
        view C:a=1",
    ),
    (
        "an outdated nonce acknowledges nothing, but its subscriptions count",
        "
        view C:a=1 C:b=1
        > C sub=a
        < C#1 a=1
        > C nonce=7 sub=b
        holds
        > C nonce=1
        < C#2 b=1
        holds C:a=1",
    ),
    (
        "a repeated subscription is answered again",
        "
        view C:a=1
        > C sub=a
        < C#1 a=1
        > C nonce=1
        > C sub=a
        < C#2 a=1
        > C sub=a
        > C nonce=2
        < C#3 a=1",
    ),
    (
        "an absent resource is answered as removed, remembered, and sent once it exists",
        "
        view C:b=1
        > C sub=a
        < C#1 -a
        > C nonce=1
        view C:b=2
        view C:a=1 C:b=2
        < C#2 a=1
        > C nonce=2
        view C:b=2
        < C#3 -a
        > C nonce=3
        view C:a=1
        < C#4 a=1",
    ),
    (
        "unsubscribing a name while everything is on is answered",
        "
        view C:a=1
        > C sub=*,a,b
        < C#1 a=1 -b
        > C nonce=1
        > C unsub=a
        < C#2 a=1
        > C nonce=2
        > C unsub=b
        < C#3 -b",
    ),
    (
        "giving up everything leaves the names",
        "
        view C:a=1 C:b=1
        > C sub=*,a
        < C#1 a=1 b=1
        > C nonce=1
        > C unsub=*
        view C:a=2 C:b=2
        < C#2 a=2
        holds C:a=1
        unacknowledged C:a, C:b",
    ),
    (
        "a name given up while its response is in flight is not counted as held",
        "
        view C:a=1
        > C sub=a
        < C#1 a=1
        > C unsub=a
        > C nonce=1
        holds",
    ),
    (
        "after a reconnect only differences are sent, and resources that are gone are removed",
        "
        view C:a=1 C:b=2 C:new=1
        > C sub=* has=a:1,b:1,old:1
        < C#1 b=2 new=1
        > C nonce=1
        resynced
        < C#2 -old
        > C nonce=2
        holds C:a=1 C:b=2 C:new=1
        unacknowledged",
    ),
    (
        "after a reconnect names asked for are answered unless they are unchanged",
        "
        view C:a=1 C:dst|b=1 absent=dst|c
        > C sub=*,dst|b,dst|c has=a:1,dst|b:1
        < C#1 -dst|c",
    ),
    (
        "after a reconnect with nothing changed nothing is sent",
        "
        view C:a=1
        > C sub=* has=a:1
        view C:a=1",
    ),
    (
        "listeners learned by use show the destinations of a client, until they are removed",
        "
        view L:a=1
        > L sub=* has=a:1,dst|1:1,dst|2:1
        learned dst|1 dst|2
        view L:a=1 L:dst|1=1
        resynced
        < L#1 -dst|2
        > L nonce=1
        learned dst|1",
    ),
    (
        "versions brought along count in the first request only",
        "
        view C:a=1
        > C sub=a
        < C#1 a=1
        > C nonce=1 has=a:7
        view C:a=7
        < C#2 a=7",
    ),
    (
        "an on-demand name waits for the source, or is denied, and is pushed unasked later",
        "
        view C:a=1
        > C sub=*,dst|x
        wanted dst|x
        < C#1 a=1
        > C nonce=1
        view C:a=1 absent=dst|x
        < C#2 -dst|x
        > C nonce=2
        view C:a=1 C:dst|x=1
        < C#3 dst|x=1
        > C nonce=3
        > C unsub=dst|x
        wanted 
        < C#4 dst|x=1",
    ),
    (
        "on-demand names beyond the bound are denied without asking the source",
        "
        view C:a=1
        > C sub=dst|1,dst|2,dst|3
        wanted dst|1 dst|2
        < C#1 -dst|3",
    ),
    (
        "too many names end the stream",
        "
        > C sub=1,2,3,4,5 fault",
    ),
    (
        "too many names over time end the stream",
        "
        > C sub=1,2,3,4
        > C sub=5 fault",
    ),
    (
        "a name too long ends the stream",
        "
        > C sub=abcdefghijklmnopq fault",
    ),
    (
        "a large response is split",
        "
        view C:a=1111111111111111111111111111111 C:b=1111111111111111111111111111111
        > C
        < C#1 a=1111111111111111111111111111111
        > C nonce=1
        < C#2 b=1111111111111111111111111111111",
    ),
];

#[test]
fn rules() {
    for (name, script) in RULES {
        run(Flavor::Delta, name, script);
    }
}
