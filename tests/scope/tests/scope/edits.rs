//! Thousands of random edits while requests go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use heddle_scope_tests::{
    Answer, Load, Mesh, Pod, PodSpec, Random, Refused, Service, World, port, scope,
};
use serde_json::json;

/// Services that always have a ready endpoint, and services that need not.
const STEADY: usize = 4;
const FLAPPING: usize = 4;
/// Applications that join and leave.
const VOLUNTEERS: usize = 6;
const CLIENTS: [&str; 3] = ["alpha", "beta", "gamma"];
const PAUSE: Duration = Duration::from_millis(100);
/// As often as the control plane looks at the directory, and a little more.
const BETWEEN: Duration = Duration::from_millis(220);

fn steady(number: usize) -> String {
    format!("steady{number}")
}

fn flapping(number: usize) -> String {
    format!("flapping{number}")
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn http(service: &str, target: u16) -> Service {
    Service {
        ports: vec![("http".to_owned(), 80, target)],
        ..Service::of(service, service, "yes")
    }
}

/// The world, with the objects that can be edited.
struct Editor {
    random: Random,
    /// Removed objects that may come back.
    services: BTreeMap<String, Service>,
    pods: BTreeMap<String, PodSpec>,
}

impl Editor {
    fn edit(&mut self, world: &mut World) {
        match self.random.below(12) {
            0 | 1 => self.readiness(world),
            2 | 3 => self.membership(world),
            4 => self.ports(world),
            5 | 6 => self.split(world),
            7 => self.service(world),
            8 => self.labels(world),
            9 | 10 => self.policy(world),
            _ => self.pod(world),
        }
    }

    fn volunteer(&mut self) -> String {
        format!("volunteer{}-1", self.random.below(VOLUNTEERS))
    }

    /// An endpoint becomes ready, or ceases to be.
    fn readiness(&mut self, world: &mut World) {
        let name = self.volunteer();
        if let Some(pod) = world.pods.get_mut(&name) {
            pod.ready = !pod.ready;
        }
    }

    /// A pod joins a service, or leaves it.
    fn membership(&mut self, world: &mut World) {
        let service = if self.random.one_in(2) {
            steady(self.random.below(STEADY))
        } else {
            flapping(self.random.below(FLAPPING))
        };
        // Of the clients the first serves always, the others sometimes.
        let (name, service) = match self.random.below(4) {
            0 => (
                format!("{}-1", self.random.pick(&CLIENTS[1..])),
                "mutual".to_owned(),
            ),
            _ => (self.volunteer(), service),
        };
        if let Some(pod) = world.pods.get_mut(&name)
            && pod.labels.remove(&service).is_none()
        {
            pod.labels.insert(service, "yes".to_owned());
        }
    }

    /// A port leads elsewhere, no longer declares a protocol, has company, or (of a flapping service) is gone.
    fn ports(&mut self, world: &mut World) {
        let kind = self.random.below(4);
        let name = if kind == 0 {
            flapping(self.random.below(FLAPPING))
        } else {
            steady(self.random.below(STEADY))
        };
        let Some(ports) = world
            .services
            .get_mut(&name)
            .map(|service| &mut service.ports)
        else {
            return;
        };
        match (kind, ports.as_mut_slice()) {
            (0, [_, ..]) => ports.clear(),
            (0, []) => ports.push(("http".to_owned(), 80, port::HTTP)),
            (1, [(_, _, target), ..]) => *target ^= port::HTTP ^ port::OTHER_HTTP,
            (2, [(name, _, _), ..]) => {
                *name = if name == "http" { "any" } else { "http" }.to_owned()
            }
            (_, [_]) => ports.push(("more".to_owned(), 81, port::HTTP)),
            _ => ports.truncate(1),
        }
    }

    /// A split comes, changes or goes. Its backends are two other steady services.
    fn split(&mut self, world: &mut World) {
        let (service, first) = (
            self.random.below(2),
            u32::try_from(self.random.below(101)).unwrap_or(0),
        );
        if self.random.one_in(5) {
            world.remove("TrafficSplit", &steady(service));
        } else {
            world.split(&steady(service), [&steady(2), &steady(3)], first);
        }
    }

    /// A flapping service goes, or comes back at its address.
    fn service(&mut self, world: &mut World) {
        let name = flapping(self.random.below(FLAPPING));
        if let Some(service) = self.services.remove(&name) {
            world.service_as_is(service);
        } else if let Some(service) = world.services.remove(&name) {
            self.services.insert(name, service);
        }
    }

    /// Labels that mean nothing.
    fn labels(&mut self, world: &mut World) {
        let value = self.random.below(1000).to_string();
        if let Some(service) = world.services.get_mut(&steady(self.random.below(STEADY))) {
            service.labels.insert("note".to_owned(), value.clone());
        }
        if let Some(pod) = world.pods.get_mut(&self.volunteer()) {
            pod.labels.insert("note".to_owned(), value);
        }
    }

    /// The callers of the locked port, whether plain text is accepted, and audits that decide nothing.
    fn policy(&mut self, world: &mut World) {
        let identities: Vec<String> = CLIENTS
            .iter()
            .chain(&["nobody"])
            .filter(|_| self.random.one_in(2))
            .map(|account| format!("shop/{account}"))
            .collect();
        let name = self.random.pick(&CLIENTS);
        let selector = json!({"matchLabels": {"app": name}});
        let locked =
            json!([{"from": {"identities": identities}, "to": {"ports": [port::OTHER_HTTP]}}]);
        match self.random.below(5) {
            0 => world.remove(
                "AuthPolicy",
                &format!("{}-{name}", self.random.pick(&["locked", "audit", "mtls"])),
            ),
            1 => world.put(
                "AuthPolicy",
                &format!("mtls-{name}"),
                json!({"selector": selector, "mtls": {"mode": "Strict"}}),
            ),
            2 => world.allow(&format!("audit-{name}"), name, &["nobody"], "Audit"),
            // A rule without anybody would be one for everybody.
            _ if identities.is_empty() => {}
            _ => world.put(
                "AuthPolicy",
                &format!("locked-{name}"),
                json!({"selector": selector, "rules": locked}),
            ),
        }
    }

    /// A pod goes, or comes back.
    fn pod(&mut self, world: &mut World) {
        let name = self.volunteer();
        if let Some(pod) = self.pods.remove(&name) {
            world.pods.insert(name, pod);
        } else if let Some(pod) = world.pods.remove(&name) {
            self.pods.insert(name, pod);
        }
    }
}

/// An answer of a steady service: of its own pods, those of a split's backends, or of a volunteer.
fn is_steady(number: usize) -> impl Fn(&Answer) -> bool + Send + 'static {
    move |answer| {
        let own = (0..STEADY).any(|other| {
            answer.app == format!("{}-1", steady(other))
                && (other == number || (number < 2 && other >= 2))
        });
        own || answer.app.starts_with("volunteer")
    }
}

/// Anything but Envoy's own word that it lacks a route. A missing cluster shows in the response flags.
fn is_no_404(result: &Result<Answer>) -> bool {
    refusal(result) != Some(404)
}

fn is_allowed_or_denied(result: &Result<Answer>) -> bool {
    result.is_ok() || refusal(result) == Some(403)
}

fn refusal(result: &Result<Answer>) -> Option<u16> {
    Some(result.as_ref().err()?.downcast_ref::<Refused>()?.status)
}

/// A name for each load, and the load.
type Loads = Vec<(String, Load)>;

fn start(mesh: &Mesh, clients: &[Pod]) -> Result<Loads> {
    let at = |service: &str| -> Result<SocketAddr> { mesh.at(service, 80) };
    let mut loads = Loads::new();
    for client in clients {
        let name = |service: &str| format!("{} to {service}", client.spec.name);
        for number in 0..STEADY {
            let load = Load::start(
                &client.client,
                at(&steady(number))?,
                PAUSE,
                is_steady(number),
            );
            loads.push((name(&steady(number)), load));
        }
        for number in 0..FLAPPING {
            let load = Load::judged(&client.client, at(&flapping(number))?, PAUSE, is_no_404);
            loads.push((name(&flapping(number)), load));
        }
        let is_client = |answer: &Answer| {
            CLIENTS
                .iter()
                .any(|client| answer.app == format!("{client}-1"))
        };
        loads.push((
            name("mutual"),
            Load::start(&client.client, at("mutual")?, PAUSE, is_client),
        ));
        loads.push((
            name("locked"),
            Load::judged(&client.client, at("locked")?, PAUSE, is_allowed_or_denied),
        ));
    }
    Ok(loads)
}

/// The response flags of the sidecars, over all of the time: the figures go with the listeners that counted them.
#[derive(Default)]
struct Seen(BTreeMap<String, BTreeSet<String>>);

impl Seen {
    /// Fails if a sidecar lacked a route or a cluster, or rejected a resource.
    async fn look(&mut self, clients: &[Pod]) -> Result<()> {
        for client in clients {
            let flags = self.0.entry(client.spec.name.clone()).or_default();
            flags.extend(client.envoy.flags().await?.into_keys());
            ensure!(
                !flags.contains("NR") && !flags.contains("NC"),
                "{:?}",
                self.0
            );
            let rejected = client.envoy.stats(r"update_rejected$").await?;
            ensure!(
                rejected.values().sum::<u64>() == 0,
                "{}: {rejected:?}",
                client.spec.name
            );
        }
        Ok(())
    }
}

async fn build(mesh: &mut Mesh) -> Result<(Vec<Pod>, impl Sized + use<>)> {
    let mut apps = Vec::new();
    for number in 0..STEADY {
        apps.push(mesh.plain(
            PodSpec::plain(&format!("{}-1", steady(number))).label(&steady(number), "yes"),
        )?);
        mesh.world.service(http(&steady(number), port::HTTP));
    }
    for number in 0..FLAPPING {
        mesh.world.service(http(&flapping(number), port::HTTP));
    }
    for number in 0..VOLUNTEERS {
        apps.push(mesh.plain(PodSpec::plain(&format!("volunteer{number}-1")))?);
    }
    mesh.world.service(http("mutual", port::HTTP));
    mesh.world.service(http("locked", port::OTHER_HTTP));
    let mut clients = Vec::new();
    for client in CLIENTS {
        let mut spec = PodSpec::new(&format!("{client}-1")).label("locked", "yes");
        if client == CLIENTS[0] {
            spec = spec.label("mutual", "yes");
        }
        clients.push(mesh.pod(spec).await?);
    }
    for client in &clients {
        mesh.settled(&client.client).await?;
    }
    Ok((clients, apps))
}

#[test]
fn random_edits_never_break_a_call() -> Result<()> {
    let edits = variable("HEDDLE_SCOPE_EDITS").unwrap_or(500);
    let by_clock = || {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| u64::from(since.subsec_nanos()))
    };
    let seed = variable("HEDDLE_SCOPE_SEED").unwrap_or_else(by_clock);
    println!("{edits} edits, HEDDLE_SCOPE_SEED={seed}");
    scope(async |mesh| {
        let (clients, _apps) = build(mesh).await?;
        let mut editor = Editor {
            random: Random::new(seed),
            services: BTreeMap::new(),
            pods: BTreeMap::new(),
        };
        let loads = start(mesh, &clients)?;
        let begin = Instant::now();
        let (mut done, mut writes, mut seen) = (0, 0, Seen::default());
        while done < edits {
            let some = 1 + editor.random.below(20) as u64;
            (0..some).for_each(|_| editor.edit(&mut mesh.world));
            mesh.write()?;
            done += some;
            writes += 1;
            tokio::time::sleep(BETWEEN).await;
            // More often than a listener that is gone takes to drain.
            if writes % 4 == 0 {
                seen.look(&clients)
                    .await
                    .with_context(|| format!("after {done} edits"))?;
            }
        }
        println!("{done} edits in {writes} writes took {:?}", begin.elapsed());
        for client in &clients {
            mesh.settled(&client.client).await?;
        }
        let (mut calls, mut answered, mut failed) = (0, 0, Vec::new());
        for (name, load) in loads {
            let tally = load.stop().await?;
            calls += tally.calls;
            answered += tally.apps.values().sum::<u64>();
            failed.extend(
                tally
                    .failures
                    .into_iter()
                    .map(|failure| format!("{name}: {failure}")),
            );
        }
        println!("{calls} calls, {answered} answered by applications");
        seen.look(&clients).await?;
        println!("response flags: {:?}", seen.0);
        ensure!(failed.is_empty(), "{failed:#?}");
        Ok(())
    })
}
