"""Packaging of gwrelay: the gateway, its spool, and the load scripts it is measured with."""

from pathlib import Path

from setuptools import setup

BENCH = [
    "matplotlib>=3.9",
]
TEST = [
    *BENCH,
    "pytest>=8.3",
    "hypothesis>=6.100",
    "flufl.bounce>=5.0",
    "import-linter>=2.1",
    "mypy>=1.15",
    "ruff>=0.11",
    "docutils>=0.21",
    "scramp>=1.4.6",
]

setup(
    name="gwrelay",
    version="0.1.0",
    description="Outbound SMTP relay gateway: durable, fast, and able to say why a message waits",
    long_description=Path(__file__).with_name("README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        "gwrelay",
        "gwrelay.admin",
        "gwrelay.commands",
        "gwrelay.message",
        "gwrelay.mx",
        "gwrelay.processes",
        "gwrelay.queue",
        "gwrelay.relay",
        "gwrelay.smtp",
        "gwrelay_bench",
        "spool",
    ],
    # bench/ sits beside the packages it measures, but its scripts must also work from an
    # installed wheel (`gwrelay demo`), where a top-level "bench" would be nobody's name.
    package_dir={"gwrelay_bench": "bench"},
    package_data={"gwrelay": ["py.typed"], "spool": ["FORMAT.rst", "py.typed"]},
    install_requires=[
        "gevent>=26.4",
        "dnspython>=2.8",
        "msgpack>=1.1",
        "click>=8.1",
        "rich>=13.9",
        "msgspec>=0.19",
        "idna>=3.7",
        "prometheus_client>=0.21",
    ],
    extras_require={"bench": BENCH, "test": TEST},
    entry_points={"console_scripts": ["gwrelay = gwrelay.__main__:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Communications :: Email :: Mail Transport Agents",
        "Typing :: Typed",
    ],
)
