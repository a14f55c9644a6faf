//! The answers that the evaluator allows for a request, and the answer of Envoy.

use std::collections::BTreeMap;

use anyhow::Result;
use heddle_policy_compiler::traffic::{
    Action, Decision, FaultAnswer, Forward, Mirror, Request, Resend, RouteEntry, RouteTable,
    Session, Share, Sticky, StickyCookie, WithoutBackend, evaluate, places,
};

use crate::wire::{RESPONSE, echoed, named_headers, of_tests, send};

/// An answer, as far as the model describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The status of gRPC in the head.
    pub grpc: Option<u16>,
    /// The place of Envoy's route in the table. Envoy answers preflight requests without it.
    pub place: Option<String>,
    /// The headers that tests set.
    pub headers: Vec<(String, String)>,
    /// The headers for browsers.
    pub consent: BTreeMap<String, String>,
    pub location: Option<String>,
    /// The name of the backend, and the request as it arrived there.
    pub forwarded: Option<(String, Request)>,
}

/// The cookie that an answer sets, or the header by which it begins a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Token {
    #[default]
    None,
    /// One of these lines of `Set-Cookie`.
    Place(Vec<String>),
    /// A cookie or header of this name; a request that has one may be in the session already.
    Session(String, bool),
}

/// An answer that the evaluator allows.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub answer: Answer,
    pub token: Token,
    pub mirrors: Vec<(Mirror, Request)>,
}

/// The answer of Envoy.
#[derive(Clone, Debug)]
pub struct Seen {
    pub answer: Answer,
    pub set_cookie: Vec<String>,
    pub session_header: Option<String>,
    /// The address of the endpoint that answered.
    pub endpoint: Option<String>,
}

/// Sends a request and reads the answer.
pub fn seen(port: u16, id: &str, request: &Request) -> Result<Seen> {
    let (head, body) = send(port, id, request)?;
    let headers = named_headers(&head);
    let all = |name: &str| -> Vec<String> {
        let found = headers.iter().filter(|(own, _)| own == name);
        found.map(|(_, value)| value.clone()).collect()
    };
    let header = |name: &str| all(name).into_iter().next();
    let consent = headers
        .iter()
        .filter(|(name, _)| name.starts_with("access-control-"));
    let (first, echo) = body.split_once("\r\n").unwrap_or_default();
    let (backend, endpoint) = first.split_once(' ').unwrap_or_default();
    Ok(Seen {
        answer: Answer {
            status: crate::harness::running::status(&head),
            grpc: header("grpc-status").and_then(|code| code.parse().ok()),
            place: header("x-place"),
            headers: of_tests(headers.clone()),
            consent: consent.cloned().collect(),
            location: header("location"),
            forwarded: echoed(echo).map(|request| (backend.to_owned(), request)),
        },
        set_cookie: all("set-cookie"),
        session_header: header("x-session"),
        endpoint: (!endpoint.is_empty()).then(|| endpoint.to_owned()),
    })
}

impl Expected {
    /// Whether Envoy may answer so.
    pub fn allows(&self, seen: &Seen) -> bool {
        let lines = &*seen.set_cookie;
        let no_header = seen.session_header.is_none();
        let token = match &self.token {
            Token::None => lines.is_empty() && no_header,
            Token::Place(all) => lines.len() == 1 && all.contains(&lines[0]) && no_header,
            Token::Session(name, in_session) if name == "x-session" => {
                lines.is_empty() && (!no_header || *in_session)
            }
            Token::Session(name, in_session) => {
                let named = |line: &String| line.starts_with(&format!("{name}="));
                no_header
                    && lines.len() <= 1
                    && lines.iter().all(named)
                    && (*in_session || !lines.is_empty())
            }
        };
        // Envoy adds a location to some answers of rules, too.
        let location = self
            .answer
            .location
            .as_ref()
            .and(seen.answer.location.clone());
        let answer = Answer {
            location,
            ..seen.answer.clone()
        };
        token && self.answer == answer
    }
}

/// Whether a request is one of gRPC, so that sidecars answer it with status 200 and a status of gRPC.
fn is_grpc(request: &Request) -> bool {
    let mut headers = request.headers.iter();
    headers.any(|(name, value)| name == "content-type" && value == "application/grpc")
}

/// The status of HTTP, and that of gRPC, of an answer of Envoy itself.
fn own_answer(status: u16, request: &Request) -> Answer {
    let code = match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    };
    match is_grpc(request) {
        true => Answer {
            status: 200,
            grpc: Some(code),
            ..Answer::default()
        },
        false => Answer {
            status,
            ..Answer::default()
        },
    }
}

/// The answer of a fault.
fn aborted(answer: FaultAnswer, request: &Request) -> Answer {
    match answer {
        FaultAnswer::Status(status) => own_answer(status, request),
        // A request that is not of gRPC has no place for the code.
        FaultAnswer::Grpc(code) => Answer {
            status: 200,
            grpc: is_grpc(request).then_some(code.into()),
            ..Answer::default()
        },
    }
}

/// The number of routes that an entry has for each way of sending requests again, and the number of these ways.
fn routes_of(table: &RouteTable, entry: &RouteEntry) -> (usize, usize) {
    let retries = &entry.rule.policy.retries;
    let forwards = matches!(entry.rule.action, Action::Forward(_));
    let split =
        retries.resends() && retries.resend == Resend::Idempotent && entry.matcher.method.is_none();
    let ways = if forwards && split { 2 } else { 1 };
    let known = entry.known_users().len() + entry.known_sessions(table).len();
    (known + 1, ways)
}

/// The place of the route of a decision: the index of its host, and of the route among all of the host.
fn place(table: &RouteTable, decision: &Decision<'_>, request: &Request) -> Option<String> {
    for (host, of) in table.hosts.iter().enumerate() {
        let mut before = 0;
        for entry in &of.entries {
            let (each, ways) = routes_of(table, entry);
            if !std::ptr::eq(entry, decision.entry) {
                before += each * ways;
                continue;
            }
            let idempotent = Resend::IDEMPOTENT.contains(&&*request.method);
            let way = usize::from(ways == 2 && !idempotent);
            let session = decision.session_share(request);
            let known = match (decision.kept_share(request), session) {
                (Some(place), _) => place,
                (None, Some(share)) => {
                    let sessions = entry.known_sessions(table);
                    let backend = |index: usize| match &entry.rule.action {
                        Action::Forward(forward) => &forward.backends[index].backend,
                        _ => unreachable!("a session of no backend"),
                    };
                    let found = sessions
                        .iter()
                        .position(|(index, _)| backend(*index) == share.backend);
                    found?
                }
                (None, None) => each - 1,
            };
            return Some(format!("{host}/{}", before + way * each + known));
        }
    }
    None
}

/// The shares that may get a request, each with its place among those with weight.
fn shares<'t>(decision: &Decision<'t>, request: &Request) -> Vec<(Share<'t>, usize)> {
    if let Some(share) = decision.session_share(request) {
        return vec![(share, 0)];
    }
    let kept = decision.kept_share(request);
    let shares = decision.shares().into_iter().enumerate();
    let shares = shares.filter(|(index, _)| kept.is_none_or(|kept| kept == *index));
    shares.map(|(index, share)| (share, index)).collect()
}

/// The lines of `Set-Cookie` of a share to which a new user of a sticky rule comes.
fn sticky_lines(forward: &Forward, index: usize) -> Token {
    let Some(Sticky::Cookie(cookie)) = &forward.sticky else {
        return Token::None;
    };
    let weighted: Vec<_> = forward.weighted().collect();
    // The only backend needs no cookie; with changes of headers of its own it has one.
    let own = weighted.iter().any(|of| !of.headers.is_empty());
    if weighted.len() == 1 && !own {
        return Token::None;
    }
    let weights: Vec<u32> = weighted.iter().map(|of| of.weight.in_force).collect();
    let places = places(&weights, StickyCookie::PLACES)[index].clone();
    Token::Place(places.map(|place| cookie.line(place)).collect())
}

/// The session that an answer of a share begins.
fn session(decision: &Decision<'_>, of: &Session, share: &Share<'_>, request: &Request) -> Token {
    let name = of.cookie(&decision.rule().id, share.backend);
    let has = match &name {
        Some(name) => request
            .headers
            .iter()
            .any(|(own, value)| own == "cookie" && value.contains(&format!("{name}="))),
        None => request.headers.iter().any(|(own, _)| own == "x-session"),
    };
    Token::Session(name.unwrap_or_else(|| "x-session".to_owned()), has)
}

/// Every answer that the evaluator allows.
pub fn expected(table: &RouteTable, request: &Request) -> Vec<Expected> {
    let Some(decision) = evaluate(table, request) else {
        let answer = own_answer(404, request);
        return vec![Expected {
            answer,
            ..Expected::default()
        }];
    };
    let texts = |of: BTreeMap<&'static str, String>| -> BTreeMap<String, String> {
        of.into_iter().map(|(n, v)| (n.to_owned(), v)).collect()
    };
    if let Some(headers) = decision.preflight(request) {
        return vec![Expected {
            answer: Answer {
                status: 200,
                consent: texts(headers),
                ..Answer::default()
            },
            ..Expected::default()
        }];
    }
    let mut all = Vec::new();
    for fault in decision.faults(request) {
        let Some(abort) = fault.abort.filter(|of| of.percent > 0) else {
            continue;
        };
        let answer = aborted(abort.answer, request);
        match &decision.rule().action {
            Action::Forward(_) => all.extend(of_caller(table, &decision, request, answer)),
            // Envoy changes headers of answers of routes that lead somewhere alone.
            Action::Redirect(_) | Action::Respond { .. } => all.push(Expected {
                answer,
                ..Expected::default()
            }),
        }
        if abort.percent == 100 {
            return all;
        }
    }
    match &decision.rule().action {
        Action::Respond { status, .. } => {
            let answer = own_answer(*status, request);
            all.extend(of_caller(table, &decision, request, answer));
        }
        Action::Redirect(redirect) => {
            let answer = Answer {
                location: decision.location(request),
                ..own_answer(redirect.status.code(), request)
            };
            all.extend(of_caller(table, &decision, request, answer));
        }
        Action::Forward(forward) => all.extend(sent(table, &decision, forward, request)),
    }
    all
}

/// An answer of the caller's sidecar, with the changes of headers of the rule and of each share.
fn of_caller(
    table: &RouteTable,
    decision: &Decision<'_>,
    request: &Request,
    answer: Answer,
) -> Vec<Expected> {
    let with = |share: Option<&Share<'_>>, token| Expected {
        answer: Answer {
            place: place(table, decision, request),
            headers: of_tests(decision.answered(share, Vec::new())),
            consent: consent(decision, request),
            ..answer.clone()
        },
        token,
        mirrors: Vec::new(),
    };
    let shares = shares(decision, request);
    let Action::Forward(forward) = &decision.rule().action else {
        return vec![with(None, Token::None)];
    };
    if shares.is_empty() {
        return vec![with(None, Token::None)];
    }
    let new = decision.kept_share(request).is_none() && decision.session_share(request).is_none();
    let token = |index| match new {
        true => sticky_lines(forward, index),
        false => Token::None,
    };
    let all = shares.iter();
    all.map(|(share, index)| with(Some(share), token(*index)))
        .collect()
}

fn consent(decision: &Decision<'_>, request: &Request) -> BTreeMap<String, String> {
    let consent = decision.consent(request).into_iter();
    consent
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The answers of backends, and those of the caller's sidecar for shares that lead nowhere.
fn sent(
    table: &RouteTable,
    decision: &Decision<'_>,
    forward: &Forward,
    request: &Request,
) -> Vec<Expected> {
    let status = match forward.without_backend {
        WithoutBackend::InternalError => 500,
        WithoutBackend::Unavailable => 503,
    };
    let nowhere = of_caller(table, decision, request, own_answer(status, request));
    let shares = shares(decision, request);
    if shares.is_empty() {
        return nowhere;
    }
    let new = decision.kept_share(request).is_none() && decision.session_share(request).is_none();
    let of_share = |((share, index), nowhere): (&(Share<'_>, usize), Expected)| {
        let Some(upstream) = share.upstream else {
            return nowhere;
        };
        let mut arrived = decision.forwarded(share, request);
        arrived.headers = of_tests(arrived.headers);
        let response = RESPONSE.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let copies = decision.rule().mirrors().iter();
        let copies = copies.filter(|of| table.mirror(&of.backend).is_some());
        let token = match &forward.session {
            Some(of) => session(decision, of, share, request),
            None if new => sticky_lines(forward, *index),
            None => Token::None,
        };
        Expected {
            answer: Answer {
                status: 200,
                grpc: None,
                headers: of_tests(decision.answered(Some(share), response.to_vec())),
                forwarded: Some((upstream.name.to_string(), arrived.clone())),
                ..nowhere.answer
            },
            token,
            mirrors: copies.map(|of| (of.clone(), arrived.clone())).collect(),
        }
    };
    shares.iter().zip(nowhere).map(of_share).collect()
}
