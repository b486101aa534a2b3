//! Choices between a few words.

use crate::profile::word::choice;

choice! {
    /// A kind of artifact.
    pub enum Artifact: "a kind of artifact" {
        /// An OCI image layout.
        Oci = "oci",
        /// A disk image.
        Disk = "disk",
        /// An installer ISO.
        Iso = "iso",
        /// A network boot set.
        Netboot = "netboot",
    }
}
choice! {
    /// A form of the disk image.
    pub enum DiskFormat: "a disk format" {
        /// The plain bytes.
        Raw = "raw",
        /// The plain bytes, zstd-compressed.
        RawZst = "raw.zst",
        /// QEMU's copy-on-write format, version 3.
        Qcow2 = "qcow2",
        /// VMware's format as a stream, for OVF packages and vSphere.
        Vmdk = "vmdk",
        /// Hyper-V's format, dynamic.
        Vhdx = "vhdx",
    }
}
choice! {
    /// How the layers of the OCI image are compressed.
    pub enum Compression: "a compression" {
        /// Smaller and faster: what registries and runtimes of today take.
        Zstd = "zstd",
        /// For older ones.
        Gzip = "gzip",
    }
}
choice! {
    /// Who follows a repository.
    pub enum GitopsKind: "who follows a repository" {
        /// Nobody.
        None = "none",
        /// Flux.
        Flux = "flux",
        /// Argo CD.
        Argocd = "argocd",
    }
}
choice! {
    /// What a virtual machine is built like.
    pub enum Machine: "a kind of machine" {
        /// UEFI and virtio.
        Modern = "modern",
        /// BIOS, IDE and an old network card, for systems that know no other.
        Legacy = "legacy",
    }
}
choice! {
    /// The hardware family.
    pub enum Board: "a board" {
        /// Any machine with UEFI firmware.
        GenericUefi = "generic-uefi",
        /// A Raspberry Pi 4 or 5.
        RaspberryPi = "raspberry-pi",
        /// An NVIDIA Jetson Orin.
        JetsonOrin = "jetson-orin",
    }
}
choice! {
    /// What protects the state partition.
    pub enum EncryptState: "a protection of the state" {
        /// Nothing.
        None = "none",
        /// LUKS2, sealed to the TPM.
        Tpm2 = "tpm2",
    }
}
choice! {
    /// What runs the workloads.
    pub enum Distribution: "a Kubernetes distribution" {
        /// Nothing: the OS alone.
        None = "none",
        /// Podman's `kube play` units.
        Podman = "podman",
        /// k3s.
        K3s = "k3s",
        /// RKE2.
        Rke2 = "rke2",
    }
}
choice! {
    /// The part that the machine has in its cluster.
    pub enum Role: "a role" {
        /// Can run alone.
        Server = "server",
        /// Needs a server on site.
        Agent = "agent",
    }
}
choice! {
    /// The edge agent.
    pub enum AgentKind: "an agent" {
        /// None.
        None = "none",
        /// KubeEdge's edgecore.
        Kubeedge = "kubeedge",
        /// Spectro Cloud Palette's agent.
        Palette = "palette",
        /// Files that the grant brings.
        Files = "files",
    }
}
choice! {
    /// How a box shows Elemental's server who it is.
    pub enum ElementalAuth: "a way to authenticate" {
        /// By its TPM.
        Tpm = "tpm",
        /// By its hardware address, which anybody on its network knows.
        Mac = "mac",
        /// By its SMBIOS UUID, which is printed on some boxes.
        SysUuid = "sys-uuid",
    }
}
choice! {
    /// What the boot loader does with the keys on the disk.
    pub enum SecureBootEnroll: "a way to enroll keys" {
        /// Nothing: they are put into the firmware by other means.
        Off = "off",
        /// Offers them in its menu.
        Manual = "manual",
        /// Takes them by itself where that can cost nobody a machine: in a virtual one.
        IfSafe = "if-safe",
    }
}
choice! {
    /// How a device joins.
    pub enum EnrollMode: "a way to enroll" {
        /// Through a fleet endpoint.
        Fleet = "fleet",
        /// Straight to its cluster, with material from the bundle.
        Direct = "direct",
        /// Not at all.
        None = "none",
    }
}
choice! {
    /// What admits a device.
    pub enum Ticket: "a kind of ticket" {
        /// One ticket a device.
        Device = "device",
        /// One ticket a batch.
        Batch = "batch",
        /// None: approval by hand.
        None = "none",
    }
}
