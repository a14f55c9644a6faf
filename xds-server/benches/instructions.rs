//! The cost of pushes in instructions: services as the compiler gives them, a cluster, its endpoints and a route in one
//! part, and the listener in another.
//!
//! `cargo xtask instructions` counts them: it runs a case with no turns and with some, and the difference is theirs.
//! Without arguments this lists the cases, each with its number of turns.

use std::collections::HashMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use heddle_xds_server::session::{Push, Sent, Session};
use heddle_xds_server::{Flavor, Limits, Part, Resource, ResourceKey, ResourceKind, View, frame};

/// Lengths of the bodies that the compiler makes: a cluster, endpoints of 10 pods, a listener, a route.
const CLUSTER: usize = 1400;
const ENDPOINTS: usize = 1300;
const LISTENER: usize = 900;
const ROUTE: usize = 120;

/// One turn, by its number. Its inputs were made before.
type Turn = Box<dyn FnMut(usize)>;

struct Case {
    name: &'static str,
    /// So many that differences from run to run, by hash seeds and the like, do not show.
    turns: usize,
    prepare: fn() -> Turn,
}

const CASES: &[Case] = &[
    Case {
        name: "first-sync-5",
        turns: 200,
        prepare: || first_sync(5),
    },
    Case {
        name: "frame-endpoints-1",
        turns: 5000,
        prepare: || framing(1),
    },
    Case {
        name: "frame-endpoints-100",
        turns: 200,
        prepare: || framing(100),
    },
    Case {
        name: "push-endpoints-5",
        turns: 2000,
        prepare: || push(5),
    },
    Case {
        name: "push-endpoints-100",
        turns: 2000,
        prepare: || push(100),
    },
    Case {
        name: "reconnect-held-100",
        turns: 50,
        prepare: || reconnect(100),
    },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let turns = |text: String| text.parse::<usize>().ok();
    let (Some(name), Some(turns)) = (arguments.next(), arguments.next().and_then(turns)) else {
        for case in CASES {
            println!("{} {}", case.name, case.turns);
        }
        return ExitCode::SUCCESS;
    };
    let Some(case) = CASES.iter().find(|case| case.name == name) else {
        eprintln!("there is no case {name}");
        return ExitCode::FAILURE;
    };
    let mut turn = (case.prepare)();
    for number in 0..turns {
        turn(number);
    }
    // The inputs are not dropped: that would count and belongs to no turn.
    std::process::exit(0)
}

fn resource(
    kind: ResourceKind,
    name: &str,
    version: &str,
    length: usize,
    requires: &[&Arc<Resource>],
) -> Arc<Resource> {
    Arc::new(Resource {
        key: ResourceKey::new(kind, name),
        version: version.into(),
        body: vec![b'x'; length].into(),
        requires: requires.iter().map(|other| other.key.clone()).collect(),
        empty: false,
    })
}

/// The parts of all services; the endpoints of the first one have this version.
fn view(services: usize, version: &str) -> Vec<Arc<Part>> {
    let of_one = |index: usize| {
        let version = if index == 0 {
            version
        } else {
            "0000000000000001"
        };
        service(index, version)
    };
    (0..services).flat_map(of_one).collect()
}

fn service(index: usize, version: &str) -> [Arc<Part>; 2] {
    let name = format!("out|team-{}/service-{index}|80", index / 10);
    let at = format!("dst|10.96.0.{index}:80");
    let one = "0000000000000001";
    let cluster = resource(ResourceKind::Cluster, &name, one, CLUSTER, &[]);
    let endpoints = resource(ResourceKind::Endpoints, &name, version, ENDPOINTS, &[]);
    let route = resource(
        ResourceKind::Route,
        &name,
        one,
        ROUTE,
        &[&cluster, &endpoints],
    );
    let needed = [&cluster, &endpoints, &route];
    let listener = resource(ResourceKind::Listener, &at, one, LISTENER, &needed);
    let part = |resources: Vec<Arc<Resource>>| {
        Arc::new(Part {
            resources: resources.into(),
        })
    };
    [part(vec![cluster, endpoints, route]), part(vec![listener])]
}

fn viewed(parts: Vec<Arc<Part>>) -> Arc<View> {
    Arc::new(View {
        parts,
        ..View::default()
    })
}

/// Two views of as many services; the endpoints of the first service differ, all else is the very same.
fn views(services: usize) -> [Arc<View>; 2] {
    let one = view(services, "0000000000000001");
    let mut two = one.clone();
    let changed = one.first().map(|part| {
        let other = |resource: &Arc<Resource>| match resource.key.kind {
            ResourceKind::Endpoints => Arc::new(Resource {
                version: "0000000000000002".into(),
                ..Resource::clone(resource)
            }),
            ResourceKind::Cluster
            | ResourceKind::Listener
            | ResourceKind::Route
            | ResourceKind::Extension
            | ResourceKind::Runtime => Arc::clone(resource),
        };
        Arc::new(Part {
            resources: part.resources.iter().map(other).collect(),
        })
    });
    if let (Some(place), Some(changed)) = (two.first_mut(), changed) {
        *place = changed;
    }
    [viewed(one), viewed(two)]
}

fn session(view: &Arc<View>) -> Session {
    let mut session = Session::new(Flavor::Delta, Limits::default());
    session.set_view(Arc::clone(view));
    session
}

/// The work of a stream after each event.
fn step(session: &mut Session) -> Vec<Push> {
    let pushes = session.poll();
    black_box(session.take_sync_states());
    pushes
}

fn hear(session: &mut Session, request: &DeltaDiscoveryRequest) -> Vec<Push> {
    let heard = session.delta_request(request);
    assert!(heard.is_ok(), "{heard:?}");
    step(session)
}

fn ask(kind: ResourceKind, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

fn acknowledge(push: &Push) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: push.kind.type_url().to_owned(),
        response_nonce: push.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Envoy's requests after a response: its acknowledgment, and subscriptions to the resources that this one refers to.
fn answers(push: &Push) -> Vec<DeltaDiscoveryRequest> {
    let own_name = |sent: &Sent| sent.resource.key.name.to_string();
    let names = push.resources.iter().map(own_name).collect();
    let routes = |sent: &Sent| {
        let required = sent.resource.requires.iter();
        let routes = required.filter(|key| key.kind == ResourceKind::Route);
        routes.map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    let mut requests = vec![acknowledge(push)];
    match push.kind {
        ResourceKind::Cluster => {
            requests.push(ask(ResourceKind::Endpoints, names));
            requests.push(ask(ResourceKind::Listener, Vec::new()));
        }
        ResourceKind::Listener => {
            let names = push.resources.iter().flat_map(routes).collect();
            requests.push(ask(ResourceKind::Route, names));
        }
        ResourceKind::Endpoints
        | ResourceKind::Route
        | ResourceKind::Extension
        | ResourceKind::Runtime => {}
    }
    requests
}

/// A stream from its first request until the client has everything, and all that the client sent.
fn synced(view: &Arc<View>) -> (Session, Vec<DeltaDiscoveryRequest>) {
    let mut session = session(view);
    let mut sent = Vec::new();
    let mut pending = vec![ask(ResourceKind::Cluster, Vec::new())];
    while !pending.is_empty() {
        let pushes: Vec<Push> = pending
            .iter()
            .flat_map(|request| hear(&mut session, request))
            .collect();
        sent.append(&mut pending);
        pending = pushes.iter().flat_map(answers).collect();
    }
    let (held, all) = (session.held_count(), view.iter().count());
    assert_eq!(held, all, "the client has not got everything");
    (session, sent)
}

/// A client that has nothing gets everything.
fn first_sync(services: usize) -> Turn {
    let view = viewed(view(services, "0000000000000001"));
    // The client's next request depends on the responses, and these are the same each time, nonces included.
    let (_, sent) = synced(&view);
    Box::new(move |_| {
        let mut session = session(&view);
        for request in &sent {
            black_box(hear(&mut session, request));
        }
        assert_eq!(session.held_count(), 4 * services);
    })
}

/// The endpoints of one service are others, to and fro, and the client acknowledges them.
fn push(services: usize) -> Turn {
    let [one, two] = views(services);
    let (mut session, _) = synced(&two);
    Box::new(move |number| {
        session.set_view(Arc::clone(if number % 2 == 0 { &one } else { &two }));
        let pushed = step(&mut session);
        assert_eq!(pushed.len(), 1, "one response");
        for push in &pushed {
            assert_eq!(push.resources.len(), 1, "one resource in it");
            assert!(hear(&mut session, &acknowledge(push)).is_empty());
        }
    })
}

/// A client that has everything comes again, and is sent nothing.
fn reconnect(services: usize) -> Turn {
    let view = viewed(view(services, "0000000000000001"));
    let sent = ResourceKind::ALL.map(|kind| held(&view, kind));
    Box::new(move |_| {
        let mut session = session(&view);
        for request in &sent {
            assert!(hear(&mut session, request).is_empty(), "something was sent");
        }
        session.end_resync();
        assert!(step(&mut session).is_empty(), "something was sent");
        assert_eq!(session.held_count(), 4 * services);
    })
}

/// The first request of a kind by a client that has all of a view.
fn held(view: &View, kind: ResourceKind) -> DeltaDiscoveryRequest {
    let resources = || view.iter().filter(|resource| resource.key.kind == kind);
    let name = |resource: &Arc<Resource>| resource.key.name.to_string();
    let version = |resource: &Arc<Resource>| match kind {
        // Behind it stands the version of the cluster.
        ResourceKind::Endpoints => format!("{}@0000000000000001", resource.version),
        ResourceKind::Cluster
        | ResourceKind::Listener
        | ResourceKind::Route
        | ResourceKind::Extension
        | ResourceKind::Runtime => resource.version.to_string(),
    };
    let names = if kind.is_complete() {
        vec!["*".to_owned()]
    } else {
        resources().map(name).collect()
    };
    let versions = resources().map(|resource| (name(resource), version(resource)));
    DeltaDiscoveryRequest {
        initial_resource_versions: versions.collect::<HashMap<_, _>>(),
        ..ask(kind, names)
    }
}

/// The frame of a response with the endpoints of so many services.
fn framing(services: usize) -> Turn {
    let view = viewed(view(services, "0000000000000001"));
    let mut session = session(&view);
    let mut pushes = hear(&mut session, &ask(ResourceKind::Cluster, Vec::new()));
    let names = pushes.iter().flat_map(|push| &push.resources);
    let names = names
        .map(|sent| sent.resource.key.name.to_string())
        .collect();
    pushes = hear(&mut session, &ask(ResourceKind::Endpoints, names));
    assert_eq!(pushes.len(), 1, "one response");
    Box::new(move |_| {
        for push in &pushes {
            black_box(frame(push, Flavor::Delta));
        }
    })
}
