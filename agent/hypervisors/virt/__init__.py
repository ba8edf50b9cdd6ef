"""The libvirt driver: machines of a libvirtd, QEMU's and Xen's, off or running.

Promises: a machine that a migration stopped cannot be started by anybody else, as libvirt does not
know it meanwhile; a definition that came from elsewhere names no file of this host that the
operator did not permit; whatever is killed in between, repeating the call goes on.

Never: deletes or wipes a block device, or lets a machine run before its saved memory is deleted.

```
FOLDER/machines/<migration id>/   disks of a machine that arrived, origin.json, domain.xml
FOLDER/held/<vm id>.json          while a migration holds a machine: how it was before
            <vm id>.<token>.memory, <vm id>.tpm    what quiesce saved
FOLDER/retained/<migration id>/   record of what was handed over; its disks stay where they are
FOLDER/epochs/<vm id>.json        epoch of a machine that was made here, and did not arrive
FOLDER/views/<of vm id>/          socket and scratch files while disks in use are read
FOLDER/incoming/<migration id>/   what arrives (agent.transfer); becomes machines/ by rename
```

`policy`, `devices` and `compat` decide about definitions, `records` is what is durable,
`connection` speaks with libvirtd; `stopping`, `arrival`, `views` and `retiring` do the duties of
`driver`.
"""
