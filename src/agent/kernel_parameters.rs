//! The kernel's command line.

/// Parameters as the boot loader gave them; of one that is given twice the last counts.
#[derive(Clone, Debug, Default)]
pub struct KernelParameters {
    words: Vec<String>,
}

impl KernelParameters {
    /// Empty where there is no `/proc/cmdline`.
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// Words are parted by white space outside of double quotes; the quotes are dropped.
    pub fn parse(line: &str) -> Self {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut quoted = false;
        for character in line.chars() {
            match character {
                '"' => quoted = !quoted,
                character if character.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
                character => word.push(character),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        Self { words }
    }

    /// The value of `name=value`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.words.iter().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The values of `name=value`, in the order in which they were given.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let prefix = format!("{name}=");
        self.words.iter().filter_map(move |word| word.strip_prefix(&prefix))
    }

    /// Whether the word stands there by itself.
    pub fn has(&self, flag: &str) -> bool {
        self.words.iter().any(|word| word == flag)
    }
}

#[cfg(test)]
mod tests {
    use super::KernelParameters;

    #[test]
    fn values_flags_and_quotes_are_told_apart() {
        let parameters = KernelParameters::parse(
            "console=ttyS0 ro bootproof.node=a init=/bin/sh \"bootproof.x=two words\" y=\"1 2\" bootproof.node=b\n",
        );
        assert_eq!(parameters.value("bootproof.node"), Some("b"));
        assert_eq!(parameters.value("bootproof.x"), Some("two words"));
        assert_eq!(parameters.value("y"), Some("1 2"));
        assert_eq!(parameters.value("bootproof"), None);
        assert!(parameters.has("ro"));
        assert!(!parameters.has("rw"));
    }
}
