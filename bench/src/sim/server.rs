//! The measured server: one, or replicas behind one address.

use std::sync::{Arc, PoisonError, RwLock};

use crate::random::Random;

/// The ADS server.
#[derive(Debug, Clone)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// The name that its certificate has to bear.
    pub server_name: String,
}

/// The replicas behind one address, as a Service has them: each new connection goes to any one of those that are ready.
#[derive(Debug, Clone)]
pub struct Replicas(Arc<RwLock<Vec<Server>>>);

impl Replicas {
    /// This one alone.
    pub fn of(server: &Server) -> Self {
        Self(Arc::new(RwLock::new(vec![server.clone()])))
    }

    /// Another is ready.
    pub fn join(&self, server: &Server) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.push(server.clone());
    }

    pub(super) fn choose(&self, random: &mut Random) -> Option<Server> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(random.below(all.len())).cloned()
    }
}
