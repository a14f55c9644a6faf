//! Random policies of rules, copies of requests, and the ways in which users and sessions keep their backend.

use std::collections::BTreeSet;
use std::time::Duration;

use heddle_policy_compiler::traffic::{
    Abort, Backend, Cors, Delay, Failure, Fault, FaultAnswer, HeaderMatcher, Listed, Millionths,
    Mirror, Origin, PathMatcher, RequestMatcher, Resend, Retries, RoutePolicy, Session, Sticky,
    StickyCookie, ValueMatcher,
};
use proptest::prelude::*;

use crate::random::matcher;
use crate::{BACKENDS, STICKY_HEADER, backend};

/// How users and sessions keep their backend.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    pub sticky: Option<Sticky>,
    pub session: Option<Session>,
}

impl Keeping {
    /// The same for a rule with so many backends: a header of sessions is for one alone.
    pub fn of(mut self, backends: usize) -> Self {
        let by_header = |of: &Session| matches!(of, Session::Header(_));
        self.session = self.session.filter(|of| backends == 1 || !by_header(of));
        self
    }
}

pub fn keeping() -> impl Strategy<Value = Keeping> {
    let age = || proptest::option::of(Just(Duration::from_secs(60)));
    let sticky = |sticky| Keeping {
        sticky: Some(sticky),
        session: None,
    };
    let session = |session| Keeping {
        sticky: None,
        session: Some(session),
    };
    let cookie = age().prop_map(|max_age| {
        Sticky::Cookie(StickyCookie {
            name: "k".into(),
            max_age,
        })
    });
    prop_oneof![
        4 => Just(Keeping::default()),
        1 => Just(sticky(Sticky::Header(STICKY_HEADER.into()))),
        1 => cookie.prop_map(sticky),
        1 => age().prop_map(move |max_age| session(Session::Cookie { name: "s".into(), max_age })),
        1 => Just(session(Session::Header("x-session".into()))),
    ]
}

pub fn mirrors() -> impl Strategy<Value = Vec<Mirror>> {
    let share = prop_oneof![
        1 => Just(Millionths::of(0, 1).unwrap()),
        1 => Just(Millionths::of(1, 2).unwrap()),
        3 => Just(Millionths::ALL),
    ];
    let some = proptest::collection::vec((0..=BACKENDS, share), 1..3).prop_map(|mirrors| {
        let mut seen = BTreeSet::new();
        let mirrors = mirrors.into_iter().filter(|(of, _)| seen.insert(*of));
        let mirrors = mirrors.map(|(index, share)| Mirror {
            backend: if index == BACKENDS {
                Backend::Invalid(None)
            } else {
                backend(index)
            },
            share,
        });
        mirrors.collect()
    });
    prop_oneof![3 => Just(Vec::new()), 1 => some]
}

fn fault() -> impl Strategy<Value = Fault> {
    let percent = || prop_oneof![1 => Just(0_u32), 1 => Just(50), 3 => Just(100)];
    let answer = prop_oneof![
        (540..560_u16).prop_map(FaultAnswer::Status),
        Just(FaultAnswer::Status(429)),
        (1..=16_u8).prop_map(FaultAnswer::Grpc),
    ];
    let abort = (answer, percent()).prop_map(|(answer, percent)| Abort { answer, percent });
    let delay = percent().prop_map(|percent| Delay {
        time: Duration::from_millis(1),
        percent,
    });
    let abort = proptest::option::weighted(0.8, abort);
    let delay = proptest::option::weighted(0.3, delay);
    let matcher = prop_oneof![1 => Just(RequestMatcher::default()), 1 => matcher()];
    (matcher, delay, abort).prop_map(|(mut matcher, delay, abort)| {
        let path = match matcher.path {
            PathMatcher::Regex(_) | PathMatcher::Grpc(_) => PathMatcher::Any,
            path => path,
        };
        // As `kinds` has it: a code of gRPC is for calls of gRPC.
        if abort.is_some_and(|of| matches!(of.answer, FaultAnswer::Grpc(_))) {
            matcher.headers.push(HeaderMatcher {
                name: "content-type".into(),
                value: ValueMatcher::Prefix("application/grpc".into()),
            });
            matcher.headers.sort();
        }
        let matcher = RequestMatcher {
            path,
            cookies: Vec::new(),
            query: Vec::new(),
            ..matcher
        };
        Fault {
            matcher,
            delay,
            abort,
        }
    })
}

fn cors() -> impl Strategy<Value = Cors> {
    let origins = [
        Origin::Any,
        Origin::Exact("https://a.test".into()),
        Origin::Suffix("https://".into(), ".b.test:8443".into()),
        Origin::Suffix("http://".into(), "".into()),
    ];
    let listed = |names: &'static [&'static str]| {
        let some = proptest::sample::subsequence(names.to_vec(), 0..=names.len());
        let some = some.prop_map(|of| Listed::These(of.into_iter().map(Into::into).collect()));
        prop_oneof![1 => Just(Listed::All), 3 => some]
    };
    let all = (
        proptest::sample::subsequence(origins[1..].to_vec(), 0..=3),
        proptest::bool::weighted(0.2),
        listed(&["PUT", "DELETE"]),
        listed(&["X-A", "X-B"]),
        listed(&["Y-A", "Y-B"]),
        1..10_u32,
        any::<bool>(),
    );
    all.prop_map(
        move |(some, all, methods, headers, exposed, max_age, credentials)| Cors {
            origins: if all { vec![origins[0].clone()] } else { some },
            methods,
            headers,
            exposed,
            max_age,
            credentials,
        },
    )
}

fn retries() -> impl Strategy<Value = Retries> {
    let resend = prop_oneof![Just(Resend::Idempotent), Just(Resend::All)];
    let some = (0..3_u32, any::<bool>(), resend).prop_map(|(attempts, resets, resend)| Retries {
        attempts,
        failures: resets.then_some(Failure::Reset).into_iter().collect(),
        resend,
        backoff: None,
    });
    prop_oneof![2 => Just(Retries::default()), 1 => some]
}

pub fn policy() -> impl Strategy<Value = RoutePolicy> {
    let faults = proptest::collection::vec(fault(), 1..3);
    let faults = prop_oneof![2 => Just(Vec::new()), 1 => faults];
    let cors = proptest::option::weighted(0.4, cors());
    (faults, cors, retries()).prop_map(|(faults, cors, retries)| RoutePolicy {
        faults,
        cors,
        retries,
        ..RoutePolicy::default()
    })
}
