//! systemd: the unit's text, and what a service tells its manager. Both do nothing outside a unit.

use crate::report;
use sd_notify::NotifyState;
use std::path::Path;
use std::time::Duration;

/// The unit, with its comments; `@EXECUTABLE@` stands for the binary.
const UNIT: &str = include_str!("mailrace.service");

/// Places that the unit hides from the service, so a binary there cannot be started by it.
const HIDDEN: [&str; 4] = ["/home", "/root", "/run/user", "/tmp"];

/// The unit for the binary at `executable`.
#[must_use]
pub fn unit(executable: &Path) -> String {
    UNIT.replace("@EXECUTABLE@", &quoted(&executable.to_string_lossy()))
}

/// What keeps the unit from starting `executable`, if anything does.
#[must_use]
pub fn obstacle(executable: &Path) -> Option<String> {
    HIDDEN.iter().find(|place| executable.starts_with(place)).map(|place| {
        format!(
            "{} lies below {place}, which the unit hides from the service; \
             copy the binary to /usr/local/bin and print the unit from there",
            executable.display()
        )
    })
}

/// A word of a unit file (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers").
fn quoted(path: &str) -> String {
    let escaped = path.replace('%', "%%").replace('$', "$$");
    let plain = escaped.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.%$+@".contains(&b));
    if plain { escaped } else { format!("\"{}\"", escaped.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// The manager, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manager {
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment names it.
    #[must_use]
    pub fn from_environment() -> Self {
        let mut period_us = 0;
        let asked = sd_notify::watchdog_enabled(false, &mut period_us);
        Self { watchdog: asked.then(|| Duration::from_micros(period_us)) }
    }

    /// How often [`Manager::alive`] is to be called: twice in the watchdog's period.
    #[must_use]
    pub fn watchdog_interval(self) -> Option<Duration> {
        self.watchdog.map(|period| period / 2)
    }

    /// Every listener is open.
    pub fn ready(self) {
        tell(&[NotifyState::Ready, NotifyState::Status("running")]);
    }

    /// Every part still turns. Not to be called when one does not: the manager then restarts us.
    pub fn alive(self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// The file is being read again; [`Manager::ready`] follows.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// No more mail is taken; the end comes within `within`. The manager's own bound and its watchdog are
    /// moved past that: nobody feeds the watchdog meanwhile.
    pub fn stopping(self, within: Duration) {
        const MARGIN: Duration = Duration::from_secs(30);
        let patience_us = u32::try_from((within + MARGIN).as_micros()).unwrap_or(u32::MAX);
        let mut states = vec![NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(patience_us)];
        states.extend(self.watchdog.map(|_| NotifyState::WatchdogUsec(patience_us)));
        states.push(NotifyState::Status("finishing transactions"));
        tell(&states);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        report::warning(&format!("the service manager cannot be told: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{obstacle, quoted, unit};
    use std::path::Path;

    #[test]
    fn words_of_a_unit() {
        for (path, expected) in [
            ("/usr/local/bin/mailrace", "/usr/local/bin/mailrace"),
            ("/opt/50%/x", "/opt/50%%/x"),
            ("/opt/my mail/\"x\"", "\"/opt/my mail/\\\"x\\\"\""),
        ] {
            assert_eq!(quoted(path), expected);
        }
    }

    #[test]
    fn the_unit_starts_this_binary() {
        let text = unit(Path::new("/opt/mail/mailrace"));
        assert!(text.contains(
            "\nExecStart=/opt/mail/mailrace serve --config /etc/mailrace/mailrace.toml --data-dir /var/lib/mailrace\n"
        ));
        assert!(!text.contains("@EXECUTABLE@"));
        assert!(obstacle(Path::new("/home/anna/mailrace")).is_some());
        assert!(obstacle(Path::new("/homes/mailrace")).is_none());
    }
}
