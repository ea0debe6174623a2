"""What a client does: train on its own examples, and measure."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_torch.task import Net, load_data, test
from digits_torch.task import train as train_model

app = ClientApp()


def net_of(msg: Message) -> Net:
    """The network with the arrays of a message."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    return net


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on this node's examples."""
    place, config = context.node_config, context.run_config
    net = net_of(msg)
    loader, _ = load_data(place["partition-id"], place["num-partitions"])
    loss = train_model(net, loader, config["local-epochs"], msg.content["config"]["lr"])
    metrics = {"train_loss": loss, "num-examples": len(loader.dataset)}
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Measure the model on examples that this node never trains on."""
    place = context.node_config
    _, loader = load_data(place["partition-id"], place["num-partitions"])
    loss, accuracy = test(net_of(msg), loader)
    metrics = {"eval_loss": loss, "eval_accuracy": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
