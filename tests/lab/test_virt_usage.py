"""What a definition and an image say of the files that are used."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from agent.hypervisors.virt import definition, usage
from tests.support.shelves import definition as domain_xml

VM_ID = "5c2f2a3e-4bb5-4a5e-8d38-0d7b45f0a6c1"
DEVICES = """<domain><os><nvram>/n/web.fd</nvram><kernel> /boot/k </kernel></os><devices>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/d/top'/>
  <backingStore type='file'><format type='qcow2'/><source file='/d/middle'/>
    <backingStore type='block'><format type='raw'/><source dev='/dev/vg/base'/></backingStore>
  </backingStore><mirror type='file'><source file='/d/mirror'/></mirror></disk>
<disk type='block' device='lun'><source dev='/dev/sdx'/></disk>
<disk type='network' device='disk'><driver type='qcow2'/><source protocol='nbd' name='x'/></disk>
<disk type='file' device='cdrom'><driver type='raw'/><source file='/iso/cd'/></disk>
</devices></domain>"""


def test_every_path_in_a_definition_counts() -> None:
    found = usage.named(ET.fromstring(DEVICES))  # noqa: S314 - our own
    wanted = "/n/web.fd /boot/k /d/top /d/middle /dev/vg/base /d/mirror /dev/sdx /iso/cd"
    assert found == {Path(each) for each in wanted.split()}


def test_only_what_may_have_something_behind_it_is_looked_into() -> None:
    found = usage.images(ET.fromstring(DEVICES))  # noqa: S314 - our own
    assert found == [usage.Image(Path("/d/top"), "qcow2")]


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"filename": "/a/b"}, "/a/b"),
        ({"filename": "/a/b", "backing-filename": "c"}, "/a/b /a/c"),
        (
            {"filename": "/a/b", "backing-filename": "c", "full-backing-filename": "/d"},
            "/a/b /a/c /d",
        ),
        ({"filename": "/a/b", "format-specific": {"data": {"data-file": "raw"}}}, "/a/b /a/raw"),
        ({"filename": "/a/b", "full-backing-filename": "nbd://host/x"}, "/a/b"),
        ({"filename": "/a/b", "full-backing-filename": "file:/x:y"}, "/a/b /x:y"),
        ({"filename": "/a:b/c"}, "/a:b/c"),
        ({"filename": "/a/b", "extents": [{"filename": "/e"}]}, "/a/b /e"),
        (
            {
                "filename": 'json:{"driver":"qcow2","file":{"driver":"file","filename":"/j"},'
                '"backing":{"file.filename":"/k"}}'
            },
            "/j /k",
        ),
    ],
)
def test_files_behind_an_image_are_told_whatever_they_are_called_by(
    entry: dict[str, Any], wanted: str
) -> None:
    assert usage.chain([entry]) == {Path(each) for each in wanted.split()}


def test_a_disk_that_only_runs_is_an_obstacle_and_one_that_has_another_source_is() -> None:
    persistent = domain_xml(VM_ID, "web", {"vda": "/d/a", "vdb": "/d/b"})
    assert definition.attached_live(persistent, persistent) == []
    for live in ({"vda": "/d/a", "vdb": "/d/other"}, {"vda": "/d/a", "vdc": "/d/b"}):
        (note,) = definition.attached_live(persistent, domain_xml(VM_ID, "web", live))
        assert note.fatal
        assert note.error.reason == "VM_NOT_MOVABLE"
    strange = persistent.replace("file='/d/b'", "protocol='nbd'")
    (note,) = definition.attached_live(persistent, strange)
    assert note.error.reason == "VM_DEFINITION_INVALID"
