//! How our domains are told from everybody else's: a name of our making, and in the metadata the run that they belong to.
//! Only what has both is ever removed.

use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::Event;

use super::xml::Element;

/// Begins the name of every domain.
pub const PREFIX: &str = "bootproof-";
/// The metadata's namespace.
pub const NAMESPACE: &str = "urn:bootproof:mark:1";

/// Whose a domain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub run: String,
    pub lane: String,
    pub machine: String,
    /// Where the run keeps what it writes: there is the lock that tells whether it goes on.
    pub work_root: PathBuf,
}

impl Mark {
    /// The domain's name: the run's number makes it nobody else's.
    pub fn domain_name(&self) -> String {
        format!("{PREFIX}{}-{}", self.run, self.machine)
    }

    /// The run's folder, which the run and the keepers of its machines hold a lock on.
    pub fn run_folder(&self) -> PathBuf {
        self.work_root.join("runs").join(&self.run)
    }

    pub(super) fn element(&self) -> Element {
        Element::new("bootproof:mark")
            .with("xmlns:bootproof", NAMESPACE)
            .with("run", &self.run)
            .with("lane", &self.lane)
            .with("machine", &self.machine)
            .with("work-root", self.work_root.display())
    }

    /// Reads the mark out of a domain's metadata, as libvirt gives it for our namespace.
    pub fn parse(metadata: &str) -> Option<Self> {
        let mut reader = Reader::from_str(metadata);
        loop {
            let element = match reader.read_event().ok()? {
                Event::Start(element) | Event::Empty(element) if element.local_name().as_ref() == b"mark" => element,
                Event::Eof => return None,
                _ => continue,
            };
            let value = |name: &str| {
                let attribute = element.try_get_attribute(name).ok()??;
                Some(attribute.normalized_value(XmlVersion::Explicit1_0).ok()?.into_owned())
            };
            return Some(Self {
                run: value("run")?,
                lane: value("lane")?,
                machine: value("machine")?,
                work_root: value("work-root")?.into(),
            });
        }
    }

    /// Whether a domain of that name carries this mark, and the mark is one of this work root's.
    pub fn is_ours(&self, domain: &str, work_root: &Path) -> bool {
        domain == self.domain_name() && self.work_root == work_root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark {
            run: "20260101T000000-abc".into(),
            lane: "smoke".into(),
            machine: "node01".into(),
            work_root: "/a & b/<work>".into(),
        }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        assert_eq!(Mark::parse(&mark().element().document()), Some(mark()));
        for other in ["", "<mark/>", "<mark run='a'/>", "<other run='a'/>", "<mark"] {
            assert_eq!(Mark::parse(other), None, "{other}");
        }
    }

    #[test]
    fn ours_is_what_has_name_and_mark_of_this_work_root() {
        let name = mark().domain_name();
        assert_eq!(name, "bootproof-20260101T000000-abc-node01");
        assert!(mark().is_ours(&name, Path::new("/a & b/<work>")));
        assert!(!mark().is_ours(&name, Path::new("/elsewhere")));
        assert!(!mark().is_ours("bootproof-other", Path::new("/a & b/<work>")));
    }
}
