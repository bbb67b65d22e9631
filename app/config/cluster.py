"""What the user can set for models that run on several machines. Knows no Ray; descriptions are written for users."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backends.devices import parse_bytes


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClusterSettings(_Table):
    """What all deployments share where the models run on several machines."""

    models_dir: str = Field(
        default="", description="Folder of the weights on the cluster's machines; empty: models_dir, as it is here."
    )
    weights_from: str = Field(
        default="",
        description="Folder that the machines share, laid out as models_dir: a machine copies from it what it lacks.",
    )
    start_seconds: float = Field(
        default=600.0, gt=0, description="Longest wait for a deployment's first replica, seconds (503)."
    )
    drain_seconds: float = Field(
        default=600.0, ge=0, description="Seconds that the requests of a replica get which is replaced or given up."
    )
    gateways: int = Field(
        default=1, ge=1, description="Gateways before the replicas where Serve runs them, too (`serve run`)."
    )


class ReplicaSettings(_Table):
    """[deployments.NAME.cluster]: the replicas of one deployment."""

    replicas: int | tuple[int, int] = Field(
        default=1, description="How many, or the least and the most: [0, 4] starts none before the first request."
    )
    cpus: float = Field(default=1.0, gt=0, description="Cores of each replica, and the threads it computes with.")
    gpus: float = Field(default=0.0, ge=0, description="GPUs of each replica; 0.5 lets two share one.")
    memory: str | int = Field(default=0, description='Memory that is set aside for each, such as "6GiB"; 0 = none.')
    resources: dict[str, float] = Field(
        default_factory=dict[str, float], description="Further resources by the names that machines were started with."
    )
    accelerator: str = Field(default="", description="Only machines with this accelerator, such as L4.")
    labels: dict[str, str] = Field(
        default_factory=dict[str, str], description="Only machines that were started with these labels."
    )
    per_node: int = Field(default=0, ge=0, description="Most replicas on one machine; 0 = any number.")
    utilisation: float = Field(
        default=0.75, gt=0, le=1, description="Part of the slots that may be in use before another replica starts."
    )
    wait_seconds: float = Field(
        default=20.0, gt=0, description="Queued work before each slot, seconds, at which another replica starts."
    )
    surge: bool = Field(
        default=True, description="Start the new replica before the old one ends at an update: needs room for both."
    )

    @property
    def least(self) -> int:
        return self.replicas[0] if isinstance(self.replicas, tuple) else self.replicas

    @property
    def most(self) -> int:
        return self.replicas[1] if isinstance(self.replicas, tuple) else self.replicas

    @field_validator("replicas")
    @classmethod
    def _in_order(cls, replicas: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = replicas if isinstance(replicas, tuple) else (replicas, replicas)
        if not 0 <= least <= most or most < 1:
            raise ValueError("must be a number from 1, or two of them: the least, which may be 0, and the most")
        return replicas

    @field_validator("memory")
    @classmethod
    def _size(cls, memory: str | int) -> str | int:
        parse_bytes(memory)
        return memory
