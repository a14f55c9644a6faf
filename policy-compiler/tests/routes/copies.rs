//! The copies of requests that mirrors receive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::traffic::{Millionths, Mirror, Request, RouteTable};

use crate::harness::running::{request as head_of, serve};
use crate::wire::{echoed, named_headers};
use crate::{BACKENDS, MIRRORS, port_of};

/// The id of a request, and the name of a mirror.
type Place = (String, String);

/// The copies that arrived, and those that may arrive.
#[derive(Default)]
pub struct Copies {
    arrived: Arc<Mutex<BTreeMap<Place, Vec<Request>>>>,
    allowed: BTreeSet<Place>,
}

impl Copies {
    /// Starts the servers of all mirrors.
    pub fn serve() -> Result<Self> {
        let copies = Self::default();
        for index in 0..BACKENDS {
            let at = format!("{MIRRORS}:{}", port_of(index));
            serve(at, copies.receive(format!("m{index}")))?;
        }
        Ok(copies)
    }

    fn receive(&self, name: String) -> impl Fn(&mut TcpStream) + Send + Clone + 'static {
        let arrived = Arc::clone(&self.arrived);
        move |stream| {
            while let Some(head) = head_of(stream) {
                let head = String::from_utf8_lossy(&head);
                let headers = named_headers(&head);
                let id = headers.iter().find(|(name, _)| name == "x-id");
                let id = id.map_or_else(String::new, |(_, id)| id.clone());
                let mut all = arrived.lock().unwrap_or_else(PoisonError::into_inner);
                let of_place = all.entry((id, name.clone())).or_default();
                of_place.extend(echoed(&head));
                drop(all);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        }
    }

    /// Waits for the copies of a request that was sent, and compares them with it as it arrived at its backend.
    pub fn compare(
        &mut self,
        id: &str,
        table: &RouteTable,
        mirrors: &[(Mirror, Request)],
    ) -> Result<Option<String>> {
        for (mirror, request) in mirrors {
            if mirror.share.get() == 0 {
                continue;
            }
            let upstream = table.mirror(&mirror.backend).context("no upstream")?;
            let place = (id.to_owned(), upstream.name.to_string());
            self.allowed.insert(place.clone());
            if mirror.share == Millionths::ALL {
                let found = self.wait(&place)?;
                if found != [request.clone()] {
                    return Ok(Some(format!("the copy {request:#?}, not {found:#?}")));
                }
            }
        }
        Ok(None)
    }

    fn wait(&self, place: &Place) -> Result<Vec<Request>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let all = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = all.get(place) {
                return Ok(found.clone());
            }
            drop(all);
            ensure!(Instant::now() < deadline, "no copy for {place:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A copy that must not be there. It may still arrive later, so the end of the run asks again.
    pub fn unexpected(&self) -> Option<String> {
        let mut all = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.keys().find(|place| !self.allowed.contains(*place));
        let found = found.cloned()?;
        let copies = all.remove(&found);
        Some(format!("an unexpected copy for {found:?}: {copies:#?}"))
    }
}
