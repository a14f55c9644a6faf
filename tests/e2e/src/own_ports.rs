//! The ports of a sidecar, called from outside of the mesh.

use anyhow::{Result, ensure};

use crate::{Echo, Load, Namespace, Report};

/// The ports that capture uses; only the sidecar itself may reach them.
const CAPTURE: [u16; 4] = [15001, 15002, 15006, 15007];

/// A pod with a sidecar, and a caller in a namespace without one.
pub struct OwnPorts {
    outside: Namespace,
    name: String,
    ip: String,
}

impl OwnPorts {
    /// Deploys the caller.
    ///
    /// # Errors
    ///
    /// If the caller does not start or the called application has no pod.
    pub fn of(server: &Namespace, app: &str, caller: &str) -> Result<Self> {
        let outside = Namespace::plain(caller)?;
        Echo::new("caller").deploy(&outside)?;
        let (name, ip) = server.pod(app)?;
        Ok(Self { outside, name, ip })
    }

    /// Calls every port between the sidecar's lowest and highest; `mode` is for messages.
    ///
    /// # Errors
    ///
    /// If a port answers, if a port of capture takes a connection, or if the sidecar is not ready afterwards.
    pub fn refuse(&self, mode: &str) -> Result<()> {
        let (ip, from) = (&self.ip, &self.outside.kubectl);
        for port in 15000..=15020 {
            let report = Load::from(from, "caller")
                .flag("-n=2")
                .flag("-timeout=5s")
                .run(&format!("http://{ip}:{port}/"))?;
            // Nothing but the sidecar listens here, and it answers no caller without an identity.
            ensure!(report.status("200") == 0, "{mode} {port}: {report:?}");
            let text = report.error_samples.concat();
            ensure!(
                !CAPTURE.contains(&port) || text.contains("connection refused"),
                "{mode} {port}: {report:?}"
            );
        }
        let ready = Load::from(from, "caller").run(&format!("http://{ip}:15021/healthz/ready"))?;
        ensure!(ready.status("200") == 1, "{mode}: {ready:?}");
        Ok(())
    }

    /// Calls a port of the application itself.
    ///
    /// # Errors
    ///
    /// If the call could not be made.
    pub fn call(&self, port: u16) -> Result<Report> {
        Load::from(&self.outside.kubectl, "caller").run(&format!("http://{}:{port}/", self.ip))
    }

    /// How often the containers of the sidecar were started again.
    ///
    /// # Errors
    ///
    /// If the pod is gone.
    pub fn restarts(&self, server: &Namespace) -> Result<u32> {
        let counts = "jsonpath={.status.initContainerStatuses[*].restartCount}";
        let text = server
            .kubectl
            .run(&["get", "pod", &self.name, "-o", counts])?;
        let counts = text.split_whitespace().map(str::parse::<u32>);
        Ok(counts.sum::<Result<u32, _>>()?)
    }
}
