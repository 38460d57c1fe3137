//! What a lane's deployer has machines boot over the network.

use crate::deployer::NetbootDocument;
use crate::error::{Error, Result};
use crate::image::{BuiltImage, NetworkFiles};

/// The machine's own kernel parameters, which iPXE reads from DMI: its last OEM string (SMBIOS type 11), as our medium's boot
/// loader does. A deployer elsewhere has no such parameter, and vendors' strings go nowhere.
const OWN_PARAMETERS: &str = "${smbios/11.4.0:string}";

/// `name`: the lane's name for the image. `https`: where machines phone home to, for a deployer that is reached otherwise than its
/// script is.
///
/// # Errors
/// Usage: an image that needs more than a kernel and initrds.
pub fn document(name: &str, image: &BuiltImage, https: Option<String>) -> Result<NetbootDocument> {
    let Some(NetworkFiles { kernel, initrds, mut parameters }) = NetworkFiles::of(image) else {
        return Err(Error::usage(format!("the image `{name}` cannot be booted over the network"))
            .hint("it has to be an installer (`iso` with `suite`), or a kernel and an initramfs and nothing else"));
    };
    parameters.extend(https.map(|url| format!("bootproof.deployer_url={url}")));
    parameters.push(OWN_PARAMETERS.into());
    Ok(NetbootDocument { kernel, initrds, parameters })
}
