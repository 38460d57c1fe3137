//! Images and machines: what each may be, and that each machine's image is there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::text::is_address;
use super::{Checker, join};
use crate::lane::document::{
    DebianDocument, ImageDocument, IsoDocument, MachineDocument, Named, NetworkDocument, NixImageDocument, Terse,
};
use crate::lane::model::{
    Backend, DebianImage, Disk, DiskImage, Image, IsoImage, KernelFlavour, Machine, Network, NixImage, TinyImage,
    WriteCache, default_debian_size,
};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::tree::Place;
use crate::lane::units::{Shift, Size};
use crate::secret::{Placeholder, placeholders};

/// The image that every lane has.
pub(super) const BUILT_IN: &str = "tiny";
/// virtio-blk tells the guest no more of a serial number.
const DISK_NAME_LIMIT: usize = 20;
/// As much as firmware shows anywhere.
const SERIAL_LIMIT: usize = 64;
/// A PC's clock counts from 1980.
const CLOCK_LIMIT_DAYS: u32 = 40 * 365;
/// Less than this no kernel unpacks itself into.
const LEAST_MEMORY: Size = Size::mebibytes(32);

impl Checker<'_> {
    pub(super) fn images(&mut self, images: &Named<ImageDocument>) -> BTreeMap<String, Image> {
        let mut plain = BTreeMap::new();
        for (name, image) in images {
            let image = self.entry(&image.place, |checker| {
                checker.plain_name(name, "an image's name");
                checker.image(name, image)
            });
            plain.insert(name.value.clone(), image);
        }
        plain
    }

    fn image(&mut self, name: &Spanned<String>, image: &ImageDocument) -> Image {
        if image.tiny.is_none()
            && image.debian.is_none()
            && image.nix.is_none()
            && image.disk.is_none()
            && image.iso.is_none()
        {
            self.report(
                Problem::new(format!("the image `{}` comes from nowhere", name.value))
                    .at(name.place.clone())
                    .hint("give it at least one of `tiny`, `debian`, `nix`, `disk` and `iso`"),
            );
        }
        Image {
            tiny: image.tiny.as_ref().map(|tiny| TinyImage {
                kernel: tiny.kernel.as_ref().map(|path| self.host_path(path)),
                modules: tiny.modules.as_ref().map(|path| self.host_path(path)),
            }),
            debian: image.debian.as_ref().map(|debian| self.debian(debian)),
            nix: image.nix.as_ref().map(|nix| self.nix(nix)),
            disk: image.disk.as_ref().map(|disk| DiskImage {
                path: self.host_path(&disk.path),
                sha512: disk.sha512.as_ref().map(|sha512| self.sha512(sha512)),
            }),
            iso: image.iso.as_ref().and_then(|iso| self.iso(iso)),
            ready: self.ready(image),
        }
    }

    fn nix(&mut self, nix: &Spanned<Terse<String, NixImageDocument>>) -> NixImage {
        let place = nix.place.clone();
        let nix = match &nix.value {
            Terse::Short(reference) => return NixImage::of(self.nix_reference(reference, &place)),
            Terse::Full(nix) => nix,
        };
        match (&nix.reference, &nix.file) {
            (None, None) => self.report(
                Problem::new("nothing tells what Nix is to build")
                    .at(place)
                    .hint("give it `reference` (`.#nixosConfigurations.node`) or `file`"),
            ),
            (Some(_), Some(file)) => self.report(
                Problem::new("a flake output and a Nix file cannot both be built")
                    .at(file.place.clone())
                    .hint("give it one of `reference` and `file`"),
            ),
            (Some(_), None) | (None, Some(_)) => {}
        }
        if let (Some(attribute), None) = (&nix.attribute, &nix.file) {
            self.report(
                Problem::new("an attribute is one of a file")
                    .at(attribute.place.clone())
                    .hint("give it `file`, or write it behind the `#` of `reference`"),
            );
        }
        for number in [&nix.jobs, &nix.cores].into_iter().flatten() {
            if number.value == 0 {
                self.report(Problem::new("at least one is needed").at(number.place.clone()));
            }
        }
        let mut word = |text: &Option<Spanned<String>>| {
            let text = text.as_ref()?;
            if text.is_empty() || text.contains(char::is_whitespace) || text.starts_with('-') {
                self.report(Problem::new(format!("`{}` is not a name of Nix", text.value)).at(text.place.clone()));
            }
            Some(self.without_secrets(text, "an image's recipe"))
        };
        let (attribute, output) = (word(&nix.attribute), word(&nix.output));
        NixImage {
            reference: nix.reference.as_ref().map(|reference| self.nix_reference(reference, &reference.place)),
            file: nix.file.as_ref().map(|file| self.host_path(file)),
            attribute,
            output,
            jobs: nix.jobs.as_ref().map(|jobs| jobs.value),
            cores: nix.cores.as_ref().map(|cores| cores.value),
        }
    }

    fn nix_reference(&mut self, reference: &str, place: &Place) -> String {
        if reference.is_empty() || reference.contains(char::is_whitespace) || reference.starts_with('-') {
            self.report(
                Problem::new("this is neither a flake output nor a store path")
                    .at(place.clone())
                    .hint("write it like `.#nixosConfigurations.node`"),
            );
        }
        let spanned = Spanned { value: reference.to_owned(), place: place.clone() };
        self.without_secrets(&spanned, "an image's recipe")
    }

    fn iso(&mut self, iso: &Spanned<IsoDocument>) -> Option<IsoImage> {
        match (&iso.path, &iso.suite) {
            (Some(path), None) if iso.packages.is_empty() && iso.kernel.is_none() => Some(IsoImage::File {
                path: self.host_path(path),
                sha512: iso.sha512.as_ref().map(|sha512| self.sha512(sha512)),
            }),
            (None, Some(suite)) if iso.sha512.is_none() => {
                self.suite_and_packages(suite, &iso.packages);
                Some(IsoImage::Installer {
                    suite: suite.value.clone(),
                    packages: iso.packages.iter().map(|package| package.value.clone()).collect(),
                    kernel: iso.kernel.as_ref().map_or_else(KernelFlavour::default, |kernel| kernel.value),
                })
            }
            _ => {
                self.report(
                    Problem::new("this is neither one medium that exists nor one recipe for the installer")
                        .at(iso.place.clone())
                        .hint("write `{ path = \"installer.iso\" }`, with `sha512` if you like, or `{ suite = \"bookworm\" }`, with `packages` and `kernel` if you like"),
                );
                None
            }
        }
    }

    fn sha512(&mut self, sha512: &Spanned<String>) -> String {
        if !(sha512.len() == 128 && sha512.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            self.report(
                Problem::new("a SHA-512 is 128 hexadecimal digits")
                    .at(sha512.place.clone())
                    .label(format!("{} characters", sha512.chars().count()))
                    .hint("`sha512sum FILE` gives it"),
            );
        }
        sha512.to_ascii_lowercase()
    }

    fn suite_and_packages(&mut self, suite: &Spanned<String>, packages: &[Spanned<String>]) {
        let word = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
                && text.bytes().all(|byte| {
                    byte.is_ascii_lowercase()
                        || byte.is_ascii_digit()
                        || matches!(byte, b'+' | b'-' | b'.' | b':' | b'=' | b'~' | b'/')
                })
        };
        if !word(suite) {
            self.report(
                Problem::new(format!("`{}` is not a Debian suite", suite.value))
                    .at(suite.place.clone())
                    .hint("write a release's name, as in `bookworm`"),
            );
        }
        for package in packages {
            if !word(package) {
                self.report(
                    Problem::new(format!("`{}` is not a package's name", package.value)).at(package.place.clone()),
                );
            }
        }
    }

    fn debian(&mut self, debian: &DebianDocument) -> DebianImage {
        self.suite_and_packages(&debian.suite, &debian.packages);
        if let Some(size) = &debian.size
            && size.value < Size::mebibytes(256)
        {
            self.report(Problem::new("no Debian fits into this").at(size.place.clone()).label("at least `256MiB`"));
        }
        DebianImage {
            suite: debian.suite.value.clone(),
            packages: debian.packages.iter().map(|package| package.value.clone()).collect(),
            files: debian.files.as_ref().map(|path| self.host_path(path)),
            commands: debian
                .commands
                .iter()
                .map(|command| self.without_secrets(command, "an image's recipe"))
                .collect(),
            // Not told where it is what it would be anyway.
            kernel: debian.kernel.filter(|kernel| *kernel == KernelFlavour::Generic),
            size: debian.size.as_ref().map_or_else(default_debian_size, |size| size.value),
        }
    }

    /// Checks the machines, and adds the built-in image where one of them is made from it. `served`: the image that those boot
    /// that boot from the network.
    pub(super) fn machines(
        &mut self,
        machines: &Named<MachineDocument>,
        served: Option<&str>,
        images: &mut BTreeMap<String, Image>,
    ) -> BTreeMap<String, Machine> {
        let mut plain = BTreeMap::new();
        for (name, machine) in machines {
            let machine = self.entry(&machine.place, |checker| {
                checker.host_name(name, "a machine's name");
                checker.machine(machine, served, images)
            });
            plain.insert(name.value.clone(), machine);
        }
        let boots = |machine: &Machine| machine.backend.is_virtual() && machine.image == BUILT_IN;
        if served == Some(BUILT_IN) || plain.values().any(boots) {
            images
                .entry(BUILT_IN.into())
                .or_insert_with(|| Image { tiny: Some(TinyImage::default()), ..Image::default() });
        }
        plain
    }

    fn machine(
        &mut self,
        machine: &Spanned<MachineDocument>,
        served: Option<&str>,
        images: &BTreeMap<String, Image>,
    ) -> Machine {
        let mut defaults = Machine::default();
        if let (Some(_), Some(served)) = (&machine.network_boot, served) {
            defaults.image = served.into();
        }
        let is_medium = |name: &Spanned<String>| images.get(&name.value).is_some_and(|image| image.iso.is_some());
        let from_medium = machine.network_boot.is_some() || machine.image.as_ref().is_some_and(is_medium);
        if let Some(image) = &machine.image
            && image.value != BUILT_IN
            && !images.contains_key(&image.value)
        {
            let known = images.keys().map(String::as_str).filter(|name| *name != BUILT_IN).chain([BUILT_IN]);
            self.report(
                Problem::new(format!("the lane has no image `{}`", image.value))
                    .at(image.place.clone())
                    .nearest(image, known),
            );
        }
        if let Some(cpus) = &machine.cpus
            && !(1..=255).contains(&cpus.value)
        {
            self.report(Problem::new("a machine has from 1 to 255 CPUs").at(cpus.place.clone()));
        }
        if let Some(memory) = &machine.memory
            && memory.value < LEAST_MEMORY
        {
            self.report(
                Problem::new(format!("no kernel boots in {}", memory.value))
                    .at(memory.place.clone())
                    .label(format!("at least `{LEAST_MEMORY}`")),
            );
        }
        if let Some(limit) = &machine.console_limit
            && limit.value < Size(4096)
        {
            self.report(
                Problem::new("a console's limit leaves nothing to record")
                    .at(limit.place.clone())
                    .label("at least `4KiB`"),
            );
        }
        match (machine.backend, &machine.recording) {
            (Backend::Recorder, None) => self.report(
                Problem::new("a recorder needs a recording to play")
                    .at(machine.place.clone())
                    .hint("add `recording = \"console.raw\"`, or `\"-\"` for standard input"),
            ),
            (Backend::Recorder, Some(_)) if machine.serial.is_some() || machine.clock.is_some() => self.report(
                Problem::new("a recording has neither a serial number nor a clock")
                    .at(machine.place.clone())
                    .hint("leave `serial` and `clock` out"),
            ),
            (Backend::Recorder, Some(_)) if machine.networks.is_some() => self.report(
                Problem::new("a recording is in no network").at(machine.place.clone()).hint("leave `networks` out"),
            ),
            (Backend::Qemu | Backend::Libvirt, Some(recording)) => self.report(
                Problem::new("only a recorder plays a recording")
                    .at(recording.place.clone())
                    .hint("add `backend = \"recorder\"`"),
            ),
            _ => {}
        }
        let start = self.start(machine, images);
        let channel = self.channel(machine, start);
        Machine {
            backend: machine.backend,
            start,
            channel,
            image: machine.image.as_ref().map_or(defaults.image, |image| image.value.clone()),
            cpus: machine.cpus.as_ref().map_or(defaults.cpus, |cpus| cpus.value),
            memory: machine.memory.as_ref().map_or(defaults.memory, |memory| memory.value),
            firmware: machine.firmware,
            disks: self.disks(machine),
            kernel_parameters: machine
                .kernel_parameters
                .iter()
                .map(|parameter| self.kernel_parameter(parameter, from_medium))
                .collect(),
            network: machine.network.as_ref().map_or_else(
                // A machine among others has no card of its own beside theirs, unless it is asked for.
                || Network { none: machine.networks.is_some(), ..Network::default() },
                |network| self.network(network),
            ),
            networks: BTreeMap::new(),
            network_boot: machine.network_boot.as_ref().map(|when| when.value),
            console: machine.console,
            console_limit: machine.console_limit.as_ref().map_or(defaults.console_limit, |limit| limit.value),
            serial: machine.serial.as_ref().map(|serial| self.serial(serial)),
            clock: machine.clock.as_ref().map(|clock| self.clock(clock)),
            recording: machine.recording.as_ref().map(|path| match path.as_str() {
                "-" => "-".into(),
                path => join(self.surroundings.folder, path.as_ref()),
            }),
        }
    }

    fn serial(&mut self, serial: &Spanned<String>) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=SERIAL_LIMIT).contains(&serial.len()) || !serial.bytes().all(plain) {
            self.report(
                Problem::new(format!("`{}` cannot be a serial number", serial.value))
                    .at(serial.place.clone())
                    .label(format!("1 to {SERIAL_LIMIT} letters, digits, hyphens, underscores and dots")),
            );
        }
        serial.value.clone()
    }

    fn clock(&mut self, clock: &Spanned<Shift>) -> Shift {
        if clock.0.unsigned_abs() > u64::from(CLOCK_LIMIT_DAYS) * 24 * 3600 * 1000 {
            self.report(
                Problem::new("no hardware clock goes so wrong")
                    .at(clock.place.clone())
                    .label(format!("at most {CLOCK_LIMIT_DAYS} days, either way")),
            );
        }
        clock.value
    }

    fn disks(&mut self, machine: &MachineDocument) -> Vec<Disk> {
        let mut plain: Vec<Disk> = Vec::new();
        for disk in &machine.disks {
            let name = &disk.name;
            let valid = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            if !valid {
                self.report(
                    Problem::new(format!("`{}` cannot be a disk's name", name.value))
                        .at(name.place.clone())
                        .label("letters, digits, hyphens and underscores; it becomes the disk's serial number"),
                );
            } else if name.len() > DISK_NAME_LIMIT {
                self.report(
                    Problem::new(format!("the disk's name `{}` is too long", name.value))
                        .at(name.place.clone())
                        .label(format!("{} characters; a serial number has at most {DISK_NAME_LIMIT}", name.len())),
                );
            } else if plain.iter().any(|other| other.name == name.value) {
                self.report(
                    Problem::new(format!("the machine has two disks called `{}`", name.value)).at(name.place.clone()),
                );
            }
            if disk.size.bytes() == 0 {
                self.report(Problem::new("a disk cannot be empty of room").at(disk.size.place.clone()));
            }
            if let Some(survives) = &disk.survives
                && disk.write_cache != WriteCache::Volatile
            {
                self.report(
                    Problem::new("only of a volatile cache something survives")
                        .at(survives.place.clone())
                        .hint("add `write_cache = \"volatile\"`"),
                );
            }
            plain.push(Disk {
                name: name.value.clone(),
                size: disk.size.value,
                write_cache: disk.write_cache,
                survives: disk.survives.as_ref().map(|survives| survives.value),
                fallible: false,
            });
        }
        plain
    }

    /// `from_medium`: our installer reads its parameters, and gets secrets by a way of their own.
    fn kernel_parameter(&mut self, parameter: &Spanned<String>, from_medium: bool) -> String {
        let mut quoted = false;
        let mut split = false;
        for character in parameter.chars() {
            match character {
                '"' => quoted = !quoted,
                _ if character.is_whitespace() && !quoted => split = true,
                _ => {}
            }
        }
        if parameter.is_empty() || split || parameter.contains(char::is_control) {
            self.report(
                Problem::new("this is not one kernel parameter")
                    .at(parameter.place.clone())
                    .hint("one parameter in each entry: `[\"quiet\", \"systemd.mask=etcd.service\"]`"),
            );
        }
        let mut references = placeholders(parameter);
        let Some(first) = references.next() else { return parameter.value.clone() };
        if !from_medium {
            return self.without_secrets(
                parameter,
                "a kernel parameter of a machine that boots neither a medium nor from the network",
            );
        }
        // The guest's program puts the value in, and it does so for whole values only.
        let whole = parameter.split_once('=').is_some_and(|(name, value)| {
            name.starts_with("bootproof.") && value.starts_with("${secret:") && value.find('}') == Some(value.len() - 1)
        });
        match first {
            Placeholder::Named(_) if whole => self.with_secrets(parameter),
            _ => {
                self.report(
                    Problem::new("in a kernel parameter a secret is the whole value of one of ours")
                        .at(parameter.place.clone())
                        .hint("write it like `bootproof.bootstrap_token=${secret:token}`"),
                );
                parameter.value.clone()
            }
        }
    }

    fn network(&mut self, network: &Spanned<NetworkDocument>) -> Network {
        if network.none && (network.internet || !network.forward.is_empty() || !network.services.is_empty()) {
            self.report(
                Problem::new("a machine without a network has nothing to reach")
                    .at(network.place.clone())
                    .hint("leave out `none`, or all the rest"),
            );
        }
        let mut forward: Vec<u16> = Vec::new();
        for port in &network.forward {
            if port.value == 0 {
                self.report(Problem::new("a guest's port cannot be 0").at(port.place.clone()));
            } else if forward.contains(&port.value) {
                self.report(Problem::new(format!("port {} is forwarded twice", port.value)).at(port.place.clone()));
            }
            forward.push(port.value);
        }
        for (guest, host) in &network.services {
            let inside = guest.parse::<SocketAddrV4>().is_ok_and(|address| {
                let octets = address.ip().octets();
                // .2 is the host, .3 the name server, .15 the guest itself.
                octets[..3] == Ipv4Addr::new(10, 0, 2, 0).octets()[..3]
                    && !matches!(octets[3], 0 | 2 | 3 | 15 | 255)
                    && address.port() > 0
            });
            if !inside {
                self.report(
                    Problem::new(format!("`{}` is not a free address in the guest's network", guest.value))
                        .at(guest.place.clone())
                        .label("10.0.2.0/24 without .2, .3 and .15, and a port")
                        .hint("write it like `10.0.2.100:8080`"),
                );
            }
            if !is_address(host) {
                self.report(
                    Problem::new(format!("`{}` is not an address with a port", host.value))
                        .at(host.place.clone())
                        .hint("write it like `127.0.0.1:9000`"),
                );
            }
        }
        Network {
            none: network.none,
            internet: network.internet,
            forward,
            services: network.services.iter().map(|(guest, host)| (guest.value.clone(), host.value.clone())).collect(),
        }
    }
}
